//! Which code is the user's own, by where its file lies.
#![forbid(unsafe_code)]

/// Whether `file` belongs to an installed package or to the standard library.
pub(super) fn is_library(file: &str) -> bool {
    // Modules that are frozen into the interpreter, such as importlib and runpy.
    if file.starts_with("<frozen ") {
        return true;
    }
    let mut before = "";
    for part in file.split(['/', '\\']) {
        match part {
            "site-packages" | "dist-packages" => return true,
            // lib/python3.12/json/decoder.py, lib/python311.zip/json/decoder.py
            _ if matches!(before, "lib" | "lib64") && is_versioned_python(part) => return true,
            _ => before = part,
        }
    }
    false
}

/// `python3`, `python3.13t`, `python313.zip`.
fn is_versioned_python(part: &str) -> bool {
    let version = part.strip_prefix("python").unwrap_or("");
    let version = version.strip_suffix(".zip").unwrap_or(version);
    let version = version.strip_suffix('t').unwrap_or(version);
    version.starts_with('3')
        && version
            .chars()
            .all(|digit| digit.is_ascii_digit() || digit == '.')
}

#[cfg(test)]
mod tests {
    use super::is_library;

    #[test]
    fn library_files_are_told_from_the_users() {
        for file in [
            "/usr/lib/python3.11/json/decoder.py",
            "/usr/lib/python3/dist-packages/apt/cache.py",
            "/opt/py/lib64/python3.13t/runpy.py",
            "/usr/lib/python313.zip/runpy.py",
            "/home/me/app/.venv/lib/python3.12/site-packages/flask/app.py",
            "C:\\py\\Lib\\site-packages\\flask\\app.py",
            "<frozen importlib._bootstrap>",
        ] {
            assert!(is_library(file), "{file}");
        }
        for file in [
            "/home/me/app/main.py",
            "/home/python3.11/main.py",
            "lib/pythonic/main.py",
            "/srv/lib/python/main.py",
            "/usr/lib/python-app/main.py",
            "<string>",
            "",
        ] {
            assert!(!is_library(file), "{file}");
        }
    }
}
