//! The arguments behind a request's question mark.
#![forbid(unsafe_code)]

/// Arguments by name; the first of a name counts.
#[derive(Debug, Default)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Decodes `name=value&…`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let pairs = form_urlencoded::parse(text.as_bytes())
            .map(|(name, value)| (name.into_owned(), value.into_owned()))
            .collect();
        Self { pairs }
    }

    /// An argument's text.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        let (_, value) = self.pairs.iter().find(|(known, _)| known == name)?;
        Some(value)
    }

    /// An argument as a number in a range, or `default` without it.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn number(&self, name: &str, default: f64, low: f64, high: f64) -> Result<f64, String> {
        let Some(text) = self.text(name) else {
            return Ok(default);
        };
        text.parse()
            .ok()
            .filter(|value: &f64| (low..=high).contains(value))
            .ok_or_else(|| format!("{name}={text:?} is no number from {low} to {high}"))
    }
}
