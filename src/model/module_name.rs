//! Names a module after its file, so that `run` reads as `package.module.run`.
//!
//! Derived from the path alone: reading a frame's `__name__` would mean a dictionary look-up that
//! can run user code, and an engine that works without the GIL could not do it at all.

use std::path::MAIN_SEPARATOR;

/// The directories modules are imported from, longest first.
#[derive(Clone, Debug, Default)]
pub struct ImportRoots {
    roots: Vec<String>,
}

impl ImportRoots {
    /// Roots from absolute directory names (`sys.path`); their order does not matter.
    #[must_use]
    pub fn new(directories: impl IntoIterator<Item = String>) -> Self {
        let mut roots: Vec<String> = directories
            .into_iter()
            .map(|root| root.trim_end_matches(MAIN_SEPARATOR).to_owned())
            .filter(|root| !root.is_empty())
            .collect();
        roots.sort_by(|left, right| right.len().cmp(&left.len()).then_with(|| left.cmp(right)));
        roots.dedup();
        Self { roots }
    }

    /// The dotted module name of `file`, or `None` when no root leads to it.
    #[must_use]
    pub fn module_of(&self, file: &str) -> Option<String> {
        if let Some(frozen) = file.strip_prefix("<frozen ") {
            return frozen.strip_suffix('>').map(str::to_owned);
        }
        let relative = self.roots.iter().find_map(|root| {
            file.strip_prefix(root.as_str())?
                .strip_prefix(MAIN_SEPARATOR)
        })?;
        let stem = relative
            .strip_suffix(".py")
            .or_else(|| relative.strip_suffix(".pyc"))
            .unwrap_or(relative);
        let init = format!("{MAIN_SEPARATOR}__init__");
        let stem = stem.strip_suffix(init.as_str()).unwrap_or(stem);
        Some(stem.replace(MAIN_SEPARATOR, "."))
    }

    /// `qualname` prefixed with the module of `file` where that is known.
    #[must_use]
    pub fn qualify(&self, file: &str, qualname: &str) -> String {
        match self.module_of(file) {
            Some(module) => format!("{module}.{qualname}"),
            None => qualname.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ImportRoots;

    fn roots() -> ImportRoots {
        ImportRoots::new(
            ["/lib/python3.12", "/lib/python3.12/site-packages/", "/app"].map(str::to_owned),
        )
    }

    #[test]
    fn the_longest_root_names_the_module() {
        let file = "/lib/python3.12/site-packages/flask/app.py";
        assert_eq!(roots().module_of(file).as_deref(), Some("flask.app"));
        assert_eq!(
            roots()
                .module_of("/lib/python3.12/json/__init__.py")
                .as_deref(),
            Some("json")
        );
    }

    #[test]
    fn frozen_and_unknown_files() {
        assert_eq!(
            roots()
                .module_of("<frozen importlib._bootstrap>")
                .as_deref(),
            Some("importlib._bootstrap")
        );
        assert_eq!(roots().module_of("<string>"), None);
        assert_eq!(roots().module_of("/application/x.py"), None);
        assert_eq!(
            roots().qualify("/app/shop.py", "Cart.total"),
            "shop.Cart.total"
        );
        assert_eq!(roots().qualify("/elsewhere/x.py", "f"), "f");
    }
}
