//! The call tree as text to read on a terminal.
#![forbid(unsafe_code)]

use std::fmt::Write;

use rustc_hash::FxHashMap;

use super::{format_value, percent};
use crate::fold::call_tree::NodeId;
use crate::fold::profile::Profile;
use crate::model::location::FunctionId;

/// How much of the tree is shown.
#[derive(Clone, Copy, Debug)]
pub struct TreeOptions {
    /// Branches below this fraction of the total are left out.
    pub min_fraction: f64,
    /// Levels shown; what lies below is in the totals.
    pub max_depth: usize,
    /// Lines printed.
    pub max_rows: usize,
}

impl Default for TreeOptions {
    fn default() -> Self {
        Self {
            min_fraction: 0.005,
            max_depth: 512,
            max_rows: 2_000,
        }
    }
}

/// One function in one place of the call tree: all its lines together.
struct Branch {
    function: Option<FunctionId>,
    total: i64,
    own: i64,
    children: Vec<usize>,
}

/// The call tree in one sample type, heaviest branches first.
#[must_use]
pub fn tree(profile: &Profile, column: usize, options: &TreeOptions) -> String {
    let branches = branches(profile, column);
    let kind = &profile.sample_types[column];
    let total = branches[0].total;
    let mut text = String::new();
    let duration = format_value(profile.meta.duration_ns, "nanoseconds");
    let sum = format_value(total, &kind.unit);
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{}: {sum} in {duration}", kind.name);
    let mut printer = Printer {
        profile,
        branches: &branches,
        unit: &kind.unit,
        threshold: (total as f64 * options.min_fraction.clamp(0.0, 1.0)) as i64,
        min_percent: options.min_fraction.clamp(0.0, 1.0) * 100.0,
        max_depth: options.max_depth,
        rows_left: options.max_rows,
        text,
    };
    printer.print_all();
    printer.text
}

/// Merges the nodes of one function below one parent, so that lines do not split a branch.
fn branches(profile: &Profile, column: usize) -> Vec<Branch> {
    let own = profile.self_values(column);
    let mut branches = vec![Branch {
        function: None,
        total: 0,
        own: own[0],
        children: Vec::new(),
    }];
    let mut of_node = vec![0_usize; profile.tree.len()];
    let mut index: FxHashMap<(usize, FunctionId), usize> = FxHashMap::default();
    let mut parents = vec![0_usize];
    for node in profile.tree.nodes() {
        let parent = of_node[profile.tree.parent(node).index()];
        let location = profile.tree.location(node);
        let function = profile.symbols.location(location).function;
        let next = branches.len();
        let at = *index.entry((parent, function)).or_insert(next);
        if at == next {
            branches.push(Branch {
                function: Some(function),
                total: 0,
                own: 0,
                children: Vec::new(),
            });
            branches[parent].children.push(at);
            parents.push(parent);
        }
        branches[at].own = branches[at].own.saturating_add(own[node.index()]);
        of_node[node.index()] = at;
    }
    debug_assert_eq!(of_node[NodeId::ROOT.index()], 0);
    for at in (0..branches.len()).rev() {
        let total = branches[at].total.saturating_add(branches[at].own);
        branches[at].total = total;
        if at > 0 {
            let parent = &mut branches[parents[at]];
            parent.total = parent.total.saturating_add(total);
        }
    }
    let totals: Vec<i64> = branches.iter().map(|branch| branch.total).collect();
    for branch in &mut branches {
        branch
            .children
            .sort_by_key(|child| (std::cmp::Reverse(totals[*child]), *child));
    }
    branches
}

struct Printer<'profile> {
    profile: &'profile Profile,
    branches: &'profile [Branch],
    unit: &'profile str,
    threshold: i64,
    min_percent: f64,
    max_depth: usize,
    rows_left: usize,
    text: String,
}

/// What a line stands for.
enum Line {
    Branch(usize),
    /// So many branches too light to show, with their sum.
    Rest(usize, i64),
}

/// A line still to print, and the line art to its left.
struct Pending {
    line: Line,
    depth: usize,
    prefix: String,
    is_last: bool,
}

impl Printer<'_> {
    /// Without recursion: a tree may be deeper than a native stack.
    fn print_all(&mut self) {
        let mut pending = Vec::new();
        self.push_children(0, "", 0, &mut pending);
        while let Some(next) = pending.pop() {
            if self.rows_left == 0 {
                let _ = writeln!(
                    self.text,
                    "... cut here: too many lines; raise min_fraction"
                );
                return;
            }
            self.rows_left -= 1;
            let joint = match (next.depth == 0, next.is_last) {
                (true, _) => "",
                (false, true) => "└─ ",
                (false, false) => "├─ ",
            };
            let branch = match next.line {
                Line::Branch(branch) => &self.branches[branch],
                Line::Rest(count, sum) => {
                    let share = percent(sum, self.branches[0].total);
                    let time = format_value(sum, self.unit);
                    let _ = writeln!(
                        self.text,
                        "{share:>5.1} % {time:>9}  {}{joint}… {count} more below {} %",
                        next.prefix, self.min_percent
                    );
                    continue;
                }
            };
            let share = percent(branch.total, self.branches[0].total);
            let time = format_value(branch.total, self.unit);
            let own = if branch.own != 0 && !branch.children.is_empty() {
                format!(" [self {}]", format_value(branch.own, self.unit))
            } else {
                String::new()
            };
            let name = self.name(branch);
            let _ = writeln!(
                self.text,
                "{share:>5.1} % {time:>9}  {}{joint}{name}{own}",
                next.prefix
            );
            let below = match (next.depth == 0, next.is_last) {
                (true, _) => String::new(),
                (false, true) => format!("{}   ", next.prefix),
                (false, false) => format!("{}│  ", next.prefix),
            };
            if let Line::Branch(branch) = next.line
                && next.depth + 1 < self.max_depth
            {
                self.push_children(branch, &below, next.depth + 1, &mut pending);
            }
        }
    }

    fn push_children(&self, parent: usize, prefix: &str, depth: usize, pending: &mut Vec<Pending>) {
        let children = &self.branches[parent].children;
        let total = |child: &usize| self.branches[*child].total;
        let shown = children
            .iter()
            .take_while(|child| total(child) > 0 && total(child) >= self.threshold)
            .count();
        let rest: Vec<i64> = children[shown..]
            .iter()
            .map(total)
            .filter(|total| *total > 0)
            .collect();
        let sum = rest.iter().fold(0_i64, |sum, one| sum.saturating_add(*one));
        // More lines than can still be printed are not worth their line art.
        let mut lines: Vec<Line> = children[..shown]
            .iter()
            .take(self.rows_left.saturating_add(1))
            .map(|child| Line::Branch(*child))
            .collect();
        if sum > 0 {
            lines.push(Line::Rest(rest.len(), sum));
        }
        // A stack: the heaviest goes on last, so that it is printed first.
        let count = lines.len();
        for (place, line) in lines.into_iter().enumerate().rev() {
            pending.push(Pending {
                line,
                depth,
                prefix: prefix.to_owned(),
                is_last: place + 1 == count,
            });
        }
    }

    fn name(&self, branch: &Branch) -> String {
        let Some(function) = branch.function else {
            return String::new();
        };
        let function = &self.profile.symbols.functions[function.0 as usize];
        let printable: String = function
            .name
            .chars()
            .map(|character| {
                if character.is_control() {
                    ' '
                } else {
                    character
                }
            })
            .collect();
        let file = function.file.rsplit(['/', '\\']).next().unwrap_or("");
        if file.is_empty() {
            printable
        } else {
            format!("{printable}  {file}:{}", function.first_line)
        }
    }
}
