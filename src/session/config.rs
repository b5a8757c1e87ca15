//! What a recording is asked to do, resolved and checked.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::flight::Ring;
use crate::account::RequestFilter;
use crate::clock::cpu::is_main_thread;
use crate::fold::window::Limits;
use crate::model::label::thread_title;

/// Which threads a recording takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ThreadFilter {
    /// Every thread.
    All,
    /// The thread with this kernel id.
    One(u64),
    /// The main thread, whatever it is called.
    Main,
    /// Threads whose name matches one of these patterns (`*` any text, `?` any character).
    Names(Vec<String>),
}

impl ThreadFilter {
    /// Whether the thread is taken.
    #[must_use]
    pub fn accepts(&self, thread_id: u64, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::One(wanted) => *wanted == thread_id,
            Self::Main => is_main_thread(thread_id),
            Self::Names(patterns) => {
                let title = thread_title(thread_id, name);
                patterns.iter().any(|pattern| matches(pattern, &title))
            }
        }
    }
}

/// Whether `text` matches `pattern`, in which `*` stands for any text and `?` for one character.
fn matches(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (mut at_pattern, mut at_text) = (0, 0);
    // Where to resume after the last `*` took one more character.
    let mut retry: Option<(usize, usize)> = None;
    while at_text < text.len() {
        match pattern.get(at_pattern) {
            Some('*') => {
                retry = Some((at_pattern, at_text));
                at_pattern += 1;
            }
            Some(&wanted) if wanted == '?' || wanted == text[at_text] => {
                at_pattern += 1;
                at_text += 1;
            }
            _ => match retry {
                Some((star, from)) => {
                    retry = Some((star, from + 1));
                    at_pattern = star + 1;
                    at_text = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[at_pattern..].iter().all(|&rest| rest == '*')
}

/// A recording's configuration.
#[derive(Clone, Debug)]
pub struct RecordingConfig {
    /// Asked time between two samples of one thread in ns.
    pub period_ns: u64,
    /// CPU time the sampler may use, as a fraction of one core; 0 for no limit.
    pub max_overhead: f64,
    /// Bounds of the call tree.
    pub limits: Limits,
    /// Which threads.
    pub threads: ThreadFilter,
    /// Time between two rotations in ns; `None` never rotates.
    pub window_ns: Option<u64>,
    /// Whether it tells which locks threads wait for.
    pub locks: bool,
    /// What runs, for the profile's mapping.
    pub program: String,
    /// Which requests.
    pub requests: RequestFilter,
    /// Where finished windows are kept instead of being written.
    pub ring: Option<Arc<Ring>>,
}

impl RecordingConfig {
    /// Everything that all threads do, whatever it costs, in one window.
    #[must_use]
    pub fn of_all(program: &str, period_ns: u64) -> Self {
        Self {
            period_ns,
            max_overhead: 0.0,
            limits: Limits::default(),
            threads: ThreadFilter::All,
            window_ns: None,
            locks: true,
            program: program.to_owned(),
            requests: RequestFilter::default(),
            ring: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ThreadFilter, matches};

    #[test]
    fn wildcards() {
        for (pattern, text, expected) in [
            ("worker-*", "worker-12", true),
            ("worker-*", "main", false),
            ("*", "", true),
            ("w?rk*r*", "worker-1", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-b-b-d", false),
            ("", "x", false),
            ("exact", "exact", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn filters() {
        assert!(ThreadFilter::All.accepts(1, "x"));
        assert!(ThreadFilter::One(7).accepts(7, ""));
        assert!(!ThreadFilter::One(7).accepts(8, ""));
        assert!(ThreadFilter::Names(vec!["a".into(), "b*".into()]).accepts(1, "bee"));
        assert!(ThreadFilter::Names(vec!["thread 7".into()]).accepts(7, ""));
        let main = u64::from(std::process::id());
        assert_eq!(
            ThreadFilter::Main.accepts(main, "Thread-2"),
            cfg!(target_os = "linux")
        );
        assert!(!ThreadFilter::Main.accepts(main + 1, "MainThread"));
    }
}
