//! The token that requests must show.
#![forbid(unsafe_code)]

use parking_lot::Mutex;

/// Wrong tokens in a row before whoever sends more is told to stop.
const MAX_WRONG: u32 = 10;
const PENALTY_NS: u64 = 10_000_000_000;

/// What is to be shown, and how often something else was.
pub struct Token {
    text: String,
    wrong: Mutex<Wrong>,
}

#[derive(Default)]
struct Wrong {
    count: u32,
    last_ns: u64,
}

/// What a request has shown.
#[derive(Debug, PartialEq, Eq)]
pub enum Shown {
    /// The token.
    Right,
    /// Something else, or nothing.
    Wrong,
    /// Something else, after many wrong tokens.
    WrongAgain,
}

impl Token {
    /// A token that nobody has tried to guess yet.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self {
            text,
            wrong: Mutex::default(),
        }
    }

    /// Judges what a request has shown at a time of the monotonic clock.
    ///
    /// The right token passes whatever others have sent: if a pause for wrong ones applied to it
    /// too, one wrong token a second, from anybody, would keep its owner out for ever. A guess is
    /// hopeless because the token is long.
    #[must_use]
    pub fn judge(&self, shown: Option<&str>, now_ns: u64) -> Shown {
        let Some(shown) = shown else {
            // Whoever shows nothing guesses nothing: a scraper without its settings.
            return Shown::Wrong;
        };
        if is_equal(shown.as_bytes(), self.text.as_bytes()) {
            return Shown::Right;
        }
        let mut wrong = self.wrong.lock();
        if now_ns.saturating_sub(wrong.last_ns) > PENALTY_NS {
            wrong.count = 0;
        }
        wrong.last_ns = now_ns;
        if wrong.count == MAX_WRONG {
            return Shown::WrongAgain;
        }
        wrong.count += 1;
        Shown::Wrong
    }
}

/// Compares in a time that depends on the lengths only.
fn is_equal(left: &[u8], right: &[u8]) -> bool {
    let mut difference = left.len() ^ right.len();
    for (position, byte) in left.iter().enumerate() {
        let other = right.get(position).copied().unwrap_or(0);
        difference |= usize::from(byte ^ other);
    }
    difference == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "a-token-of-some-length";
    const SECOND_NS: u64 = 1_000_000_000;

    #[test]
    fn tokens_are_compared_whole() {
        assert!(is_equal(b"secret", b"secret"));
        for wrong in [&b"secre"[..], b"secrets", b"", b"Secret", b"secret\0"] {
            assert!(!is_equal(wrong, b"secret"));
        }
    }

    #[test]
    fn the_owner_is_not_locked_out_by_others() {
        let token = Token::new(SECRET.to_owned());
        // A wrong one every second for an hour.
        for second in 0..3_600 {
            let now_ns = second * SECOND_NS;
            let expected = match second {
                0..10 => Shown::Wrong,
                _ => Shown::WrongAgain,
            };
            assert_eq!(token.judge(Some("guess"), now_ns), expected);
            assert_eq!(token.judge(Some(SECRET), now_ns), Shown::Right);
        }
    }

    #[test]
    fn a_pause_ends_the_penalty() {
        let token = Token::new(SECRET.to_owned());
        for _ in 0..20 {
            let _ = token.judge(Some("guess"), SECOND_NS);
        }
        assert_eq!(
            token.judge(Some("guess"), 11 * SECOND_NS),
            Shown::WrongAgain
        );
        assert_eq!(token.judge(Some("guess"), 22 * SECOND_NS), Shown::Wrong);
    }

    #[test]
    fn nothing_shown_is_no_guess() {
        let token = Token::new(SECRET.to_owned());
        for _ in 0..100 {
            assert_eq!(token.judge(None, SECOND_NS), Shown::Wrong);
        }
        assert_eq!(token.judge(Some(""), SECOND_NS), Shown::Wrong);
    }
}
