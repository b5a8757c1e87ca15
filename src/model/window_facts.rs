//! How a window was recorded: numbers, and their form as comments of the profile.
//!
//! This file alone knows that form. Whoever wants a number asks [`read`].
#![forbid(unsafe_code)]

use super::facts::{JIT_IS_ON, MAIN_THREAD};

/// A number of how a window was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    /// Ticks a second that were asked for.
    AskedHz,
    /// Ticks a second that were served, or known without.
    AchievedHz,
    /// Ticks that came late, and those left out for that.
    LateTicks,
    /// Stacks that could not be read whole.
    IncompleteStacks,
    /// Ticks that were left out because nothing had happened.
    IdleTicks,
    /// Ticks at which nobody could look.
    SkippedTicks,
    /// Seconds in which the process stood still.
    StoodStillSeconds,
    /// Seconds in which there was no memory to record.
    OutOfMemorySeconds,
    /// Seconds in which there was no thread to record.
    UnattendedSeconds,
    /// Events of which sources could not tell, for want of room.
    LostEvents,
    /// Stacks folded into `<overflow>`.
    OverflowStacks,
    /// The number of nodes beyond which they were.
    MaxNodes,
    /// Seconds in which the container was not run because it had used up its share of the CPUs.
    ThrottledSeconds,
    /// Seconds in which something in the container waited for a CPU.
    ContainerCpuPressureSeconds,
    /// Seconds in which something in the container waited for a disk.
    ContainerIoPressureSeconds,
    /// Seconds in which something on the machine waited for a CPU.
    MachineCpuPressureSeconds,
    /// Seconds in which something on the machine waited for a disk.
    MachineIoPressureSeconds,
    /// The seconds out of which these five are.
    StrainSeconds,
    /// Locks that a thread found taken, where they count that.
    LocksFoundTaken,
    /// Seconds in which those threads waited for them.
    LocksWaitedSeconds,
    /// The seconds since which blocks in use are known.
    HeapSeconds,
    /// As many bytes were allocated for each sample of these, on average.
    HeapBytesPerSample,
}

impl Fact {
    /// Its name in Python.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AskedHz => "asked_hz",
            Self::AchievedHz => "achieved_hz",
            Self::LateTicks => "late_ticks",
            Self::IncompleteStacks => "incomplete_stacks",
            Self::IdleTicks => "idle_ticks",
            Self::SkippedTicks => "skipped_ticks",
            Self::StoodStillSeconds => "stood_still_seconds",
            Self::OutOfMemorySeconds => "out_of_memory_seconds",
            Self::UnattendedSeconds => "unattended_seconds",
            Self::LostEvents => "lost_events",
            Self::OverflowStacks => "overflow_stacks",
            Self::MaxNodes => "max_nodes",
            Self::ThrottledSeconds => "throttled_seconds",
            Self::ContainerCpuPressureSeconds => "container_cpu_pressure_seconds",
            Self::ContainerIoPressureSeconds => "container_io_pressure_seconds",
            Self::MachineCpuPressureSeconds => "machine_cpu_pressure_seconds",
            Self::MachineIoPressureSeconds => "machine_io_pressure_seconds",
            Self::StrainSeconds => "strain_seconds",
            Self::LocksFoundTaken => "locks_found_taken",
            Self::LocksWaitedSeconds => "locks_waited_seconds",
            Self::HeapSeconds => "heap_seconds",
            Self::HeapBytesPerSample => "heap_bytes_per_sample",
        }
    }

    /// The unit of its numbers, as measures have them.
    #[must_use]
    pub fn unit(self) -> &'static str {
        match (self, self.decimals()) {
            (Self::AskedHz | Self::AchievedHz, _) => "Hz",
            (Self::HeapBytesPerSample, _) => "bytes",
            (_, 0) => "count",
            _ => "seconds",
        }
    }

    fn decimals(self) -> usize {
        match self {
            Self::AskedHz | Self::AchievedHz | Self::StrainSeconds => 1,
            Self::LateTicks
            | Self::IncompleteStacks
            | Self::IdleTicks
            | Self::SkippedTicks
            | Self::LostEvents
            | Self::OverflowStacks
            | Self::MaxNodes
            | Self::LocksFoundTaken
            | Self::HeapBytesPerSample => 0,
            _ => 3,
        }
    }
}

/// A comment with facts between its words.
struct Line {
    words: &'static [&'static str],
    facts: &'static [Fact],
}

/// Those that every window has.
const ALWAYS: [Line; 3] = [
    Line {
        words: &["rate: asked ", " Hz, achieved ", " Hz"],
        facts: &[Fact::AskedHz, Fact::AchievedHz],
    },
    Line {
        words: &["late ticks: ", ""],
        facts: &[Fact::LateTicks],
    },
    Line {
        words: &["incomplete stacks: ", ""],
        facts: &[Fact::IncompleteStacks],
    },
];

/// Those that a window has whose first fact is not 0, before and after what the engine has to say.
const BEFORE: [Line; 3] = [
    Line {
        words: &["idle ticks: ", ", at which nothing had happened"],
        facts: &[Fact::IdleTicks],
    },
    Line {
        words: &["skipped ticks: ", ""],
        facts: &[Fact::SkippedTicks],
    },
    Line {
        words: &["process stood still: ", " s, credited to no stack"],
        facts: &[Fact::StoodStillSeconds],
    },
];

/// See [`BEFORE`].
const AFTER: [Line; 4] = [
    Line {
        words: &["out of memory: ", " s not recorded, credited to no stack"],
        facts: &[Fact::OutOfMemorySeconds],
    },
    Line {
        words: &[
            "no thread to be had: ",
            " s not recorded, credited to no stack",
        ],
        facts: &[Fact::UnattendedSeconds],
    },
    Line {
        words: &["lost events: ", ", for which there was no room"],
        facts: &[Fact::LostEvents],
    },
    Line {
        words: &[
            "overflow: ",
            " stacks beyond max_nodes = ",
            " folded into <overflow>",
        ],
        facts: &[Fact::OverflowStacks, Fact::MaxNodes],
    },
];

/// What limits, neighbours and locks have cost, as far as that is known: see [`strain_comments`].
const STRAIN: [Line; 6] = [
    Line {
        words: &["container throttled: ", " s of ", " s"],
        facts: &[Fact::ThrottledSeconds, Fact::StrainSeconds],
    },
    Line {
        words: &["cpu pressure of the container: ", " s of ", " s"],
        facts: &[Fact::ContainerCpuPressureSeconds, Fact::StrainSeconds],
    },
    Line {
        words: &["io pressure of the container: ", " s of ", " s"],
        facts: &[Fact::ContainerIoPressureSeconds, Fact::StrainSeconds],
    },
    Line {
        words: &["cpu pressure of the machine: ", " s of ", " s"],
        facts: &[Fact::MachineCpuPressureSeconds, Fact::StrainSeconds],
    },
    Line {
        words: &["io pressure of the machine: ", " s of ", " s"],
        facts: &[Fact::MachineIoPressureSeconds, Fact::StrainSeconds],
    },
    Line {
        words: &["locks found taken: ", ", waited for during ", " s"],
        facts: &[Fact::LocksFoundTaken, Fact::LocksWaitedSeconds],
    },
];

/// What a heap profile has: see [`heap_comment`].
const HEAP: Line = Line {
    words: &[
        "memory: blocks in use are those of the last ",
        " s, a sample in ",
        " bytes on average",
    ],
    facts: &[Fact::HeapSeconds, Fact::HeapBytesPerSample],
};

/// What begins the comment that tells why samples of waits have no label that says what for.
const NO_REASONS: &str = "no `off` labels: ";
/// What begins the first comment of every profile of ours.
const OURS: &str = "rprof ";
const ENGINE: &str = "engine: ";
const NO_GIL_WAIT: &str = "no gil_wait: ";

/// Name and beginning of each comment that tells a text.
const TEXTS: [(&str, &str); 6] = [
    ("rprof", OURS),
    ("engine", ENGINE),
    ("main_thread", MAIN_THREAD),
    ("jit", JIT_IS_ON),
    ("no_gil_wait", NO_GIL_WAIT),
    ("no_off_labels", NO_REASONS),
];

/// Whether a profile with these comments was recorded by rprof.
#[must_use]
pub fn is_ours(comments: &[String]) -> bool {
    comments.iter().any(|comment| comment.starts_with(OURS))
}

/// All that a window tells of how it was recorded.
#[derive(Clone, Debug, Default)]
pub struct WindowFacts<'a> {
    /// The engine's name.
    pub engine: &'a str,
    /// What is true of the process, as comments.
    pub process: Vec<String>,
    /// Why it has no waits for the GIL, if it might have had them.
    pub no_gil_wait: Option<&'a str>,
    /// Whether it could not be told why threads waited.
    pub hides_waits: bool,
    /// The numbers; those that are missing are 0.
    pub numbers: Vec<(Fact, f64)>,
}

impl WindowFacts<'_> {
    /// The facts as comments.
    #[must_use]
    pub fn comments(&self) -> Vec<String> {
        let mut comments = vec![
            format!("{OURS}{}", env!("CARGO_PKG_VERSION")),
            format!("{ENGINE}{}", self.engine),
        ];
        comments.extend(ALWAYS.iter().map(|line| self.write(line)));
        comments.extend(self.process.iter().cloned());
        let told = |line: &&Line| self.number(line.facts[0]) > 0.0;
        comments.extend(BEFORE.iter().filter(told).map(|line| self.write(line)));
        let hidden = self
            .no_gil_wait
            .map(|reason| format!("{NO_GIL_WAIT}{reason}"));
        comments.extend(hidden);
        let unknown = format!("{NO_REASONS}the kernel does not say why threads wait");
        comments.extend(self.hides_waits.then_some(unknown));
        comments.extend(AFTER.iter().filter(told).map(|line| self.write(line)));
        comments
    }

    fn number(&self, wanted: Fact) -> f64 {
        let found = self.numbers.iter().find(|(fact, _)| *fact == wanted);
        found.map_or(0.0, |(_, number)| *number)
    }

    fn write(&self, line: &Line) -> String {
        let mut text = line.words[0].to_owned();
        for (fact, word) in line.facts.iter().zip(&line.words[1..]) {
            text += &format!("{:.*}{word}", fact.decimals(), self.number(*fact));
        }
        text
    }
}

/// What limits, neighbours and locks have cost, as comments; what is not among `numbers` is not known.
#[must_use]
pub fn strain_comments(numbers: Vec<(Fact, f64)>) -> Vec<String> {
    let is_known = |line: &&Line| numbers.iter().any(|(fact, _)| *fact == line.facts[0]);
    let lines: Vec<&Line> = STRAIN.iter().filter(is_known).collect();
    let facts = WindowFacts {
        numbers,
        ..WindowFacts::default()
    };
    lines.into_iter().map(|line| facts.write(line)).collect()
}

/// Since how long blocks in use are known, and by what rate they were sampled, as a comment.
#[must_use]
pub fn heap_comment(seconds: f64, bytes_per_sample: f64) -> String {
    let facts = WindowFacts {
        numbers: vec![
            (Fact::HeapSeconds, seconds),
            (Fact::HeapBytesPerSample, bytes_per_sample),
        ],
        ..WindowFacts::default()
    };
    facts.write(&HEAP)
}

/// The numbers that `comments` tell. Of merged windows only those that are the same in all: the others
/// stand there several times.
#[must_use]
pub fn read(comments: &[String]) -> Vec<(Fact, f64)> {
    let mut found = Vec::new();
    for line in lines() {
        let mut told = comments.iter().filter_map(|comment| numbers(line, comment));
        if let (Some(numbers), None) = (told.next(), told.next()) {
            found.extend(line.facts.iter().copied().zip(numbers));
        }
    }
    found
}

/// Name and text of what `comment` tells in words, if it is a fact that is no number.
#[must_use]
pub fn read_text(comment: &str) -> Option<(&'static str, &str)> {
    let mut texts = TEXTS.iter();
    texts.find_map(|(name, begin)| Some((*name, comment.strip_prefix(begin)?)))
}

/// The first of the numbers that `comment` tells; [`read`] has it unless others tell it as well.
#[must_use]
pub fn number_of(comment: &str) -> Option<Fact> {
    let mut lines = lines().filter(|line| numbers(line, comment).is_some());
    lines.next().map(|line| line.facts[0])
}

fn lines() -> impl Iterator<Item = &'static Line> {
    let rare = AFTER.iter().chain(&STRAIN).chain([&HEAP]);
    ALWAYS.iter().chain(&BEFORE).chain(rare)
}

/// The numbers between the words of a line, if `comment` is one.
fn numbers(line: &Line, comment: &str) -> Option<Vec<f64>> {
    let (last, between) = line.words[1..].split_last()?;
    let mut rest = comment.strip_prefix(line.words[0])?.strip_suffix(last)?;
    let mut found = Vec::new();
    for word in between {
        let (number, after) = rest.split_once(word)?;
        found.push(parse(number)?);
        rest = after;
    }
    found.push(parse(rest)?);
    Some(found)
}

fn parse(number: &str) -> Option<f64> {
    let number: f64 = number.parse().ok()?;
    Some(number).filter(|number| number.is_finite() && *number >= 0.0)
}

#[cfg(test)]
mod tests {
    use super::{Fact, WindowFacts, is_ours, read};

    fn all() -> WindowFacts<'static> {
        WindowFacts {
            engine: "direct",
            process: vec!["main thread: 7".to_owned()],
            no_gil_wait: Some("it is hidden"),
            hides_waits: false,
            numbers: vec![
                (Fact::AskedHz, 100.0),
                (Fact::AchievedHz, 99.8),
                (Fact::LateTicks, 3.0),
                (Fact::IncompleteStacks, 4.0),
                (Fact::IdleTicks, 5.0),
                (Fact::SkippedTicks, 6.0),
                (Fact::StoodStillSeconds, 1.25),
                (Fact::OutOfMemorySeconds, 2.5),
                (Fact::UnattendedSeconds, 0.125),
                (Fact::LostEvents, 9.0),
                (Fact::OverflowStacks, 8.0),
                (Fact::MaxNodes, 20_000.0),
            ],
        }
    }

    #[test]
    fn facts_have_one_form_and_come_back_from_it() {
        let facts = all();
        let comments = facts.comments();
        let version = format!("rprof {}", env!("CARGO_PKG_VERSION"));
        assert_eq!(
            comments,
            [
                version.as_str(),
                "engine: direct",
                "rate: asked 100.0 Hz, achieved 99.8 Hz",
                "late ticks: 3",
                "incomplete stacks: 4",
                "main thread: 7",
                "idle ticks: 5, at which nothing had happened",
                "skipped ticks: 6",
                "process stood still: 1.250 s, credited to no stack",
                "no gil_wait: it is hidden",
                "out of memory: 2.500 s not recorded, credited to no stack",
                "no thread to be had: 0.125 s not recorded, credited to no stack",
                "lost events: 9, for which there was no room",
                "overflow: 8 stacks beyond max_nodes = 20000 folded into <overflow>",
            ]
        );
        assert!(is_ours(&comments) && !is_ours(&comments[1..]));
        assert_eq!(read(&comments), facts.numbers);
    }

    #[test]
    fn a_quiet_window_tells_what_every_window_does() {
        let comments = WindowFacts::default().comments();
        assert_eq!(comments.len(), 5);
        let names: Vec<&str> = read(&comments)
            .iter()
            .map(|(fact, _)| fact.name())
            .collect();
        let always = ["asked_hz", "achieved_hz", "late_ticks", "incomplete_stacks"];
        assert_eq!(names, always);
    }

    #[test]
    fn what_merged_windows_tell_differently_is_not_told() {
        let mut comments = all().comments();
        comments.push("late ticks: 0".to_owned());
        let told = read(&comments);
        assert_eq!(told.len(), all().numbers.len() - 1);
        assert!(told.iter().all(|(fact, _)| *fact != Fact::LateTicks));
    }

    #[test]
    fn what_is_no_fact_is_none() {
        for comment in [
            "late ticks: many",
            "late ticks: -1",
            "late ticks: inf",
            "late ticks: NaN",
            "rate: asked 1 Hz",
            "rate: asked 1 Hz, achieved 2 Hz or so",
            "idle ticks: 5",
        ] {
            assert_eq!(read(&[comment.to_owned()]), [], "{comment}");
        }
    }
}
