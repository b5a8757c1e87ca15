//! What the comments of a profile tell, as data for the report page.
#![forbid(unsafe_code)]

use serde_json::{Value, json};

use crate::model::facts::Unmeasured;
use crate::model::window_facts::{Fact, number_of, read, read_text};

/// The facts of a profile with these comments, as JSON that a script of a page may hold: each number
/// with its unit and, of a part, the whole; each text, what was measured in part, and the comments that are none of that.
#[must_use]
pub fn page_facts(comments: &[String]) -> String {
    let told = read(comments);
    let mut numbers: Vec<Value> = Vec::new();
    for (fact, number) in &told {
        match numbers.last_mut() {
            // Stands behind each number that is a part of it, and may differ between merged profiles.
            Some(part) if *fact == Fact::StrainSeconds => part["of"] = json!(number),
            _ => numbers.push(json!({"name": fact.name(), "value": number, "unit": fact.unit()})),
        }
    }
    let (mut texts, mut unmeasured, mut others) = (Vec::new(), Vec::new(), Vec::new());
    for comment in comments {
        if let Some((name, text)) = read_text(comment) {
            texts.push(json!({"name": name, "value": text}));
        } else if let Some(gap) = Unmeasured::parse(comment) {
            unmeasured.push(json!({
                "name": gap.name,
                "profiles": gap.profiles,
                "of_profiles": gap.of_profiles,
                "ns": gap.ns,
                "of_ns": gap.of_ns,
            }));
        } else {
            let fact = number_of(comment);
            if !told.iter().any(|(known, _)| fact == Some(*known)) {
                others.push(comment.as_str());
            }
        }
    }
    let facts =
        json!({"numbers": numbers, "texts": texts, "unmeasured": unmeasured, "others": others});
    // Found in texts alone; without it nothing can end the element.
    facts.to_string().replace('<', "\\u003c")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::page_facts;

    #[test]
    fn each_comment_is_told_once() {
        let comments = [
            "rprof 1",
            "engine: direct; x",
            "rate: asked 100.0 Hz, achieved 99.5 Hz",
            "late ticks: 3",
            "late ticks: 4",
            "container throttled: 0.500 s of 60.0 s",
            "io pressure of the machine: 0.250 s of 30.0 s",
            "no gil_wait: hidden",
            "main thread: 7",
            "gil: not measured in 1 of 2 profiles, 1.000 s of 3.000 s",
            "</script>",
        ];
        let written = page_facts(&comments.map(str::to_owned));
        assert!(!written.contains('<'));
        let facts: Option<Value> = serde_json::from_str(&written).ok();
        let number = |name: &str, value: f64, unit: &str| json!({"name": name, "value": value, "unit": unit});
        let part = |name: &str, value: f64, of: f64| json!({"name": name, "value": value, "unit": "seconds", "of": of});
        let text = |name: &str, value: &str| json!({"name": name, "value": value});
        assert_eq!(
            facts,
            Some(json!({
                "numbers": [
                    number("asked_hz", 100.0, "Hz"),
                    number("achieved_hz", 99.5, "Hz"),
                    part("throttled_seconds", 0.5, 60.0),
                    part("machine_io_pressure_seconds", 0.25, 30.0),
                ],
                "texts": [
                    text("rprof", "1"),
                    text("engine", "direct; x"),
                    text("no_gil_wait", "hidden"),
                    text("main_thread", "7"),
                ],
                "unmeasured": [{
                    "name": "gil", "profiles": 1, "of_profiles": 2,
                    "ns": 1_000_000_000_u64, "of_ns": 3_000_000_000_u64,
                }],
                "others": ["late ticks: 3", "late ticks: 4", "</script>"],
            }))
        );
    }
}
