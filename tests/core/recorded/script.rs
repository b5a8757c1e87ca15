//! Reads what a recording was told in a run, line by line; see `tests/fixtures/runs/README.md`.
//!
//! Nothing here names a type of the house: its types may change, these files may not.

use std::collections::BTreeMap;

/// How a recording is set up.
pub(crate) struct Setup {
    pub(crate) period_ns: u64,
    pub(crate) max_nodes: usize,
    pub(crate) max_depth: usize,
    /// `all`, `one ID` or `names PATTERN,...`.
    pub(crate) threads: String,
    pub(crate) program: String,
    pub(crate) captures: u64,
    pub(crate) keep_apart: bool,
    pub(crate) is_flight: bool,
    pub(crate) knows_gil: bool,
    pub(crate) now_ns: u64,
    pub(crate) unix_ns: i64,
}

/// Name, file and first line.
pub(crate) type Function = (String, String, u32);

/// A stack: functions and lines, leaf first.
#[derive(Clone, Default)]
pub(crate) struct Stack {
    pub(crate) is_incomplete: bool,
    pub(crate) frames: Vec<(u64, u32)>,
}

/// Labels that the application has set. Those of one `set` are one object in memory.
pub(crate) struct Active {
    pub(crate) serial: u64,
    pub(crate) request: u64,
    pub(crate) captures: u64,
    pub(crate) set: usize,
}

#[derive(Clone, Default)]
pub(crate) struct Thread {
    pub(crate) key: u64,
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) cpu_ns: Option<u64>,
    /// `U`nknown, `R`unning, read`Y`, holds the `G`IL, `W`aits for it, waits for a `L`ock, `B`locked.
    pub(crate) state: char,
    pub(crate) is_on_cpu: bool,
    pub(crate) labels: Option<usize>,
    /// `None` until the time of the tick is known, which it then is.
    since_ns: Option<u64>,
    pub(crate) stack: usize,
    pub(crate) stack_version: u64,
    pub(crate) first_seen_ns: u64,
    pub(crate) cpu_from_ns: u64,
    pub(crate) early_cpu_ns: u64,
    /// `-`, `O`pen, `E`xact or `M`ixed.
    pub(crate) span: char,
}

impl Thread {
    pub(crate) fn since_ns(&self) -> u64 {
        self.since_ns.unwrap()
    }
}

pub(crate) struct Span {
    pub(crate) key: u64,
    pub(crate) id: u64,
    pub(crate) labels: Option<usize>,
    pub(crate) from_ns: u64,
    pub(crate) to_ns: u64,
    pub(crate) end: char,
    pub(crate) name: String,
}

/// What is known at one moment.
#[derive(Default)]
pub(crate) struct Moment {
    pub(crate) at_ns: u64,
    pub(crate) moved_ns: u64,
    pub(crate) is_overdue: bool,
    pub(crate) hides_gil_waits: bool,
    pub(crate) has_requests: bool,
    pub(crate) threads_version: u64,
    pub(crate) threads: Vec<Thread>,
    pub(crate) spans: Vec<Span>,
    pub(crate) functions: BTreeMap<u64, Function>,
    /// Grows with each change of the functions.
    pub(crate) functions_version: u64,
    pub(crate) stacks: Vec<Stack>,
    pub(crate) label_sets: Vec<Vec<(String, String)>>,
    pub(crate) actives: Vec<Active>,
}

/// What a recording is told.
pub(crate) enum Told {
    Observe {
        wall_ns: u64,
        left_out: u64,
        is_idle: bool,
    },
    Settle {
        wall_ns: u64,
        left_out: u64,
        is_idle: bool,
    },
    Note,
    Count(Counts),
    Pause,
    Resume {
        wall_ns: u64,
    },
    Starve,
    TakeWindow {
        wall_ns: u64,
        unix_ns: i64,
        engine: String,
    },
}

/// What befell the sampler.
pub(crate) struct Counts {
    pub(crate) late: u64,
    pub(crate) incomplete: u64,
    pub(crate) skipped: u64,
    pub(crate) gap_ns: u64,
    pub(crate) starved_ns: u64,
    pub(crate) unattended_ns: u64,
}

fn number<T: std::str::FromStr>(text: &str) -> T {
    let parsed = text.parse();
    parsed.unwrap_or_else(|_| panic!("not a number: {text:?}"))
}

fn index(text: &str) -> Option<usize> {
    (text != "-").then(|| number(text))
}

/// The setup in the first line.
pub(crate) fn setup(line: &str) -> Setup {
    let fields: Vec<&str> = line.split('\t').collect();
    assert_eq!((fields[0], fields.len()), ("run", 12), "{line:?}");
    Setup {
        period_ns: number(fields[1]),
        max_nodes: number(fields[2]),
        max_depth: number(fields[3]),
        threads: fields[4].to_owned(),
        program: fields[5].to_owned(),
        captures: number(fields[6]),
        keep_apart: fields[7] == "1",
        is_flight: fields[8] == "1",
        knows_gil: fields[9] == "1",
        now_ns: number(fields[10]),
        unix_ns: number(fields[11]),
    }
}

impl Moment {
    /// Reads one line: notes what it says of the moment, and returns what the recording is told.
    pub(crate) fn read(&mut self, line: &str) -> Option<Told> {
        let fields: Vec<&str> = line.split('\t').collect();
        match fields[0] {
            "function" => {
                let function = (fields[3].into(), fields[4].into(), number(fields[2]));
                self.functions.insert(number(fields[1]), function);
                self.functions_version += 1;
            }
            "forget" => {
                self.functions.remove(&number(fields[1]));
                self.functions_version += 1;
            }
            "labels" => {
                let pair = |text: &&str| {
                    let (key, value) = text.split_once('=').unwrap();
                    (key.to_owned(), value.to_owned())
                };
                self.label_sets.push(fields[2..].iter().map(pair).collect());
            }
            "active" => self.actives.push(Active {
                serial: number(fields[2]),
                request: number(fields[3]),
                captures: number(fields[4]),
                set: number(fields[5]),
            }),
            "stack" => {
                let frame = |text: &str| {
                    let (function, line) = text.split_once(':').unwrap();
                    (number(function), number(line))
                };
                self.stacks.push(Stack {
                    is_incomplete: fields[2] == "1",
                    frames: fields[3].split_terminator(' ').map(frame).collect(),
                });
            }
            "thread" => self.read_thread(&fields),
            "order" => {
                let keys: Vec<u64> = fields[1].split_terminator(' ').map(number).collect();
                let known = std::mem::take(&mut self.threads);
                let of = |key: &u64| {
                    known
                        .iter()
                        .find(|thread| thread.key == *key)
                        .unwrap()
                        .clone()
                };
                self.threads = keys.iter().map(of).collect();
            }
            "spans" => self.spans = fields[1..].iter().map(|text| span(text)).collect(),
            "at" => {
                self.at_ns += number::<u64>(&fields[1][1..]);
                self.moved_ns = self.at_ns - number::<u64>(fields[2]);
                self.is_overdue = fields[3] == "1";
                self.hides_gil_waits = fields[4] == "1";
                self.has_requests = fields[5] == "1";
                self.threads_version = number(fields[6]);
                for thread in &mut self.threads {
                    thread.since_ns.get_or_insert(self.at_ns);
                }
            }
            _ => return Some(told(&fields)),
        }
        None
    }

    /// What has changed of a thread; each field begins with the letter of what it is.
    fn read_thread(&mut self, fields: &[&str]) {
        let key = number(fields[1]);
        let known = self.threads.iter().position(|thread| thread.key == key);
        let at = known.unwrap_or_else(|| {
            self.threads.push(Thread {
                key,
                ..Thread::default()
            });
            self.threads.len() - 1
        });
        let thread = &mut self.threads[at];
        for field in &fields[2..] {
            let (what, text) = field.split_at(1);
            match what {
                "c" if text == "-" => thread.cpu_ns = None,
                "c" => {
                    let more = text.strip_prefix('+');
                    let before = more.and(thread.cpu_ns).unwrap_or(0);
                    thread.cpu_ns = Some(before + number::<u64>(more.unwrap_or(text)));
                }
                "m" => thread.since_ns = (text != "@").then(|| number(text)),
                "i" => thread.id = number(text),
                "s" => thread.state = text.chars().next().unwrap(),
                "g" => thread.is_on_cpu = text == "1",
                "l" => thread.labels = index(text),
                "k" => thread.stack = number(text),
                "v" => thread.stack_version = number(text),
                "f" => thread.first_seen_ns = number(text),
                "b" => thread.cpu_from_ns = number(text),
                "e" => thread.early_cpu_ns = number(text),
                "p" => thread.span = text.chars().next().unwrap(),
                "n" => text.clone_into(&mut thread.name),
                _ => panic!("not a thread's field: {field:?}"),
            }
        }
    }
}

fn span(text: &str) -> Span {
    let fields: Vec<&str> = text.splitn(7, ',').collect();
    Span {
        key: number(fields[0]),
        id: number(fields[1]),
        labels: index(fields[2]),
        from_ns: number(fields[3]),
        to_ns: number(fields[4]),
        end: fields[5].chars().next().unwrap(),
        name: fields[6].to_owned(),
    }
}

fn told(fields: &[&str]) -> Told {
    match fields[0] {
        "observe" => Told::Observe {
            wall_ns: number(fields[1]),
            left_out: number(fields[2]),
            is_idle: fields[3] == "1",
        },
        "settle" => Told::Settle {
            wall_ns: number(fields[1]),
            left_out: number(fields[2]),
            is_idle: fields[3] == "1",
        },
        "note" => Told::Note,
        "count" => Told::Count(Counts {
            late: number(fields[1]),
            incomplete: number(fields[2]),
            skipped: number(fields[3]),
            gap_ns: number(fields[4]),
            starved_ns: number(fields[5]),
            unattended_ns: number(fields[6]),
        }),
        "pause" => Told::Pause,
        "resume" => Told::Resume {
            wall_ns: number(fields[1]),
        },
        "starve" => Told::Starve,
        "take" => Told::TakeWindow {
            wall_ns: number(fields[1]),
            unix_ns: number(fields[2]),
            engine: fields[3].to_owned(),
        },
        other => panic!("not a line of a run: {other:?}"),
    }
}
