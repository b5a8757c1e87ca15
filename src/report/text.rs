//! Names made harmless: a profile may come from anywhere, and a terminal obeys control characters.
#![forbid(unsafe_code)]

use std::fmt::Write;

/// Shown for a function without a name.
const UNNAMED: &str = "<unnamed>";

/// `name` on one line, with control characters, line separators and marks that turn the direction
/// of writing as escapes.
#[must_use]
pub fn inert(name: &str) -> String {
    if name.is_empty() {
        return UNNAMED.to_owned();
    }
    let mut shown = String::with_capacity(name.len());
    for character in name.chars() {
        if is_hidden(character) {
            // Writing to a String cannot fail.
            let _ = write!(shown, "{}", character.escape_unicode());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// Whether a character has no shape of its own but changes what is around it.
pub(super) fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use super::inert;

    #[test]
    fn what_is_hidden_is_shown() {
        for (name, shown) in [
            ("a.b.<locals>.c", "a.b.<locals>.c"),
            ("é 你", "é 你"),
            ("", "<unnamed>"),
            ("a\nb\x1b[31m", "a\\u{a}b\\u{1b}[31m"),
            ("evil\u{202e}cod", "evil\\u{202e}cod"),
            ("\u{85}\u{2028}", "\\u{85}\\u{2028}"),
        ] {
            assert_eq!(inert(name), shown);
        }
    }
}
