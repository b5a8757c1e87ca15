//! The account of a process's memory in the form of a comment, as other facts of a profile have.
#![forbid(unsafe_code)]

const ACCOUNT: &str = "memory of the process in bytes: ";

/// The comment that tells of each part how many bytes it has.
#[must_use]
pub fn comment(parts: &[(&str, u64)]) -> String {
    let parts: Vec<String> = parts
        .iter()
        .map(|(name, bytes)| format!("{name} {bytes}"))
        .collect();
    format!("{ACCOUNT}{}", parts.join(", "))
}

/// Name and bytes of each part that `comments` tell; nothing where several tell, as those of merged
/// profiles.
#[must_use]
pub fn read(comments: &[String]) -> Vec<(&str, u64)> {
    let mut told = comments
        .iter()
        .filter_map(|comment| comment.strip_prefix(ACCOUNT));
    let (Some(parts), None) = (told.next(), told.next()) else {
        return Vec::new();
    };
    let parts = parts.split(", ");
    parts
        .filter_map(|part| {
            let (name, bytes) = part.split_once(' ')?;
            let is_name = |byte: u8| byte == b'_' || byte.is_ascii_lowercase();
            let name = Some(name).filter(|name| name.bytes().all(is_name))?;
            Some((name, bytes.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{comment, read};

    #[test]
    fn an_account_comes_back_from_a_comment() {
        let parts = [("resident", 123), ("malloc_kept", 45)];
        let mut comments = vec!["late ticks: 3".to_owned(), comment(&parts)];
        assert_eq!(read(&comments), parts);
        comments.push(comment(&parts));
        assert_eq!(read(&comments), []);
        let damaged = ["memory of the process in bytes: a b, <c> 5, d 6 7, e 8".to_owned()];
        assert_eq!(read(&damaged), [("e", 8)]);
    }
}
