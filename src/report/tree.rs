//! The call tree as text to read on a terminal.
#![forbid(unsafe_code)]

use std::fmt::Write;

use rustc_hash::{FxHashMap, FxHashSet};

use super::diff::file_name;
use super::library::is_library;
use super::text::inert;
use super::{format_value, percent};
use crate::fold::call_tree::NodeId;
use crate::fold::profile::Profile;
use crate::model::facts::unmeasured;
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
    /// Whether calls from library to library are folded into the line of the outermost.
    pub fold_library: bool,
    /// Whether ANSI escapes colour what is heavy and dim what is not the user's.
    pub color: bool,
}

impl Default for TreeOptions {
    fn default() -> Self {
        Self {
            min_fraction: 0.005,
            max_depth: 512,
            max_rows: 2_000,
            fold_library: true,
            color: false,
        }
    }
}

/// One function in one place of the call tree: all its lines together.
struct Branch {
    function: Option<FunctionId>,
    total: i64,
    own: i64,
    /// `total` without regard to signs: of a difference, what changed in it.
    weight: i64,
    children: Vec<usize>,
    /// How many library functions are folded into this branch; `None` where the user's code is.
    folded: Option<usize>,
}

/// The call tree in one sample type, heaviest branches first. Of a difference what became more and
/// what became less count alike, and shares are of all that changed; see [`Profile::magnitudes`].
#[must_use]
pub fn tree(profile: &Profile, column: usize, options: &TreeOptions) -> String {
    let branches = branches(profile, column, options.fold_library);
    let measured = &profile.columns[column];
    let total = branches[0].total;
    let mut text = String::new();
    let duration = format_value(profile.meta.duration_ns, "nanoseconds");
    let sum = format_value(total, measured.unit());
    let whole = profile.magnitudes()[column];
    // Writing to a String cannot fail.
    let _ = write!(text, "{}: {sum} in {duration}", measured.name());
    if profile.is_difference(column) {
        let changes = format_value(whole, measured.unit());
        let _ = write!(text, ", a difference: shares are of {changes}");
    }
    text.push('\n');
    for gap in unmeasured(&profile.meta.comments).filter(|gap| *gap.name == *measured.name()) {
        let _ = writeln!(text, "{}", inert(&gap.to_string()));
    }
    let mut printer = Printer {
        profile,
        branches: &branches,
        unit: measured.unit(),
        whole,
        threshold: (whole as f64 * options.min_fraction.clamp(0.0, 1.0)) as i64,
        color: options.color,
        max_depth: options.max_depth,
        rows_left: options.max_rows,
        text,
    };
    printer.print_all();
    printer.text
}

/// Merges the nodes of one function below one parent, so that lines do not split a branch, and
/// library nodes into the library node that calls them.
fn branches(profile: &Profile, column: usize, fold_library: bool) -> Vec<Branch> {
    let own = profile.self_values(column);
    let weights = profile.self_magnitudes(column);
    let is_library = library_functions(profile, column, fold_library);
    let mut branches = vec![Branch {
        function: None,
        total: 0,
        own: own[0],
        weight: weights[0],
        children: Vec::new(),
        folded: None,
    }];
    let mut of_node = vec![0_usize; profile.tree.len()];
    let mut index: FxHashMap<(usize, FunctionId), usize> = FxHashMap::default();
    let mut folded: FxHashSet<(usize, FunctionId)> = FxHashSet::default();
    let mut parents = vec![0_usize];
    for node in profile.tree.nodes() {
        let parent = of_node[profile.tree.parent(node).index()];
        let location = profile.tree.location(node);
        let function = profile.symbols.location(location).function;
        let is_library = is_library[function.0 as usize];
        let at = if is_library && let Some(count) = &mut branches[parent].folded {
            *count += usize::from(folded.insert((parent, function)));
            parent
        } else {
            let next = branches.len();
            let at = *index.entry((parent, function)).or_insert(next);
            if at == next {
                branches.push(Branch {
                    function: Some(function),
                    total: 0,
                    own: 0,
                    weight: 0,
                    children: Vec::new(),
                    folded: is_library.then_some(0),
                });
                branches[parent].children.push(at);
                parents.push(parent);
                // A function that calls itself is there already.
                folded.insert((at, function));
            }
            at
        };
        let branch = &mut branches[at];
        branch.own = branch.own.saturating_add(own[node.index()]);
        branch.weight = branch.weight.saturating_add(weights[node.index()]);
        of_node[node.index()] = at;
    }
    debug_assert_eq!(of_node[NodeId::ROOT.index()], 0);
    for at in (0..branches.len()).rev() {
        let total = branches[at].total.saturating_add(branches[at].own);
        branches[at].total = total;
        let weight = branches[at].weight;
        if at > 0 {
            let parent = &mut branches[parents[at]];
            parent.total = parent.total.saturating_add(total);
            parent.weight = parent.weight.saturating_add(weight);
        }
    }
    let sizes: Vec<(u64, i64)> = branches
        .iter()
        .map(|branch| (branch.total.unsigned_abs(), branch.weight))
        .collect();
    for branch in &mut branches {
        branch
            .children
            .sort_by_key(|child| (std::cmp::Reverse(sizes[*child]), *child));
    }
    branches
}

/// Which functions to fold: none where all is library code, which then is what the user asks about.
fn library_functions(profile: &Profile, column: usize, fold_library: bool) -> Vec<bool> {
    let functions = &profile.symbols.functions;
    let is_library: Vec<bool> = functions
        .iter()
        .map(|function| fold_library && is_library(&function.file))
        .collect();
    let weights = profile.with_callees(profile.self_magnitudes(column));
    let has_own_code = profile.tree.nodes().any(|node| {
        let location = profile.symbols.location(profile.tree.location(node));
        let function = location.function.0 as usize;
        weights[node.index()] != 0 && !is_library[function] && !functions[function].file.is_empty()
    });
    if has_own_code {
        is_library
    } else {
        vec![false; functions.len()]
    }
}

struct Printer<'profile> {
    profile: &'profile Profile,
    branches: &'profile [Branch],
    unit: &'profile str,
    /// What shares are shares of.
    whole: i64,
    threshold: i64,
    color: bool,
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
                    let noun = if count == 1 { "branch" } else { "branches" };
                    let share = percent(sum, self.whole);
                    let words = format!("… {count} more {noun}, {share:.1} %");
                    let words = self.paint(DIM, &words);
                    self.print_line(sum, &next.prefix, joint, &words);
                    continue;
                }
            };
            let words = self.words(branch);
            self.print_line(branch.total, &next.prefix, joint, &words);
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
        let weight = |child: usize| self.branches[child].weight;
        let (shown, rest): (Vec<usize>, Vec<usize>) = children
            .iter()
            .filter(|child| weight(**child) > 0)
            .partition(|child| weight(**child) >= self.threshold);
        let sum = rest.iter().fold(0_i64, |sum, child| {
            sum.saturating_add(self.branches[*child].total)
        });
        // More lines than can still be printed are not worth their line art.
        let mut lines: Vec<Line> = shown
            .into_iter()
            .take(self.rows_left.saturating_add(1))
            .map(Line::Branch)
            .collect();
        if !rest.is_empty() {
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

    fn print_line(&mut self, value: i64, prefix: &str, joint: &str, words: &str) {
        let share = percent(value, self.whole);
        let time = format_value(value, self.unit);
        let heat = match share.abs() {
            50.0.. => "1;31",
            20.0.. => "33",
            5.0.. => "32",
            _ => "",
        };
        let numbers = self.paint(heat, &format!("{share:>5.1} % {time:>9}"));
        let art = self.paint(DIM, &format!("{prefix}{joint}"));
        let _ = writeln!(self.text, "{numbers}  {art}{words}");
    }

    /// Name, place, what is folded and what is spent in the function itself.
    fn words(&self, branch: &Branch) -> String {
        let Some(function) = branch.function else {
            return String::new();
        };
        let function = &self.profile.symbols.functions[function.0 as usize];
        let mut words = inert(&function.name);
        if branch.folded.is_some() {
            words = self.paint(DIM, &words);
        }
        if !function.file.is_empty() {
            let file = inert(file_name(&function.file));
            let place = format!("  {file}:{}", function.first_line);
            words.push_str(&self.paint(DIM, &place));
        }
        if let Some(count @ 1..) = branch.folded {
            let noun = if count == 1 { "frame" } else { "frames" };
            let note = format!(" … {count} library {noun}");
            words.push_str(&self.paint(DIM, &note));
        }
        if branch.own != 0 && !branch.children.is_empty() {
            let _ = write!(words, " [self {}]", format_value(branch.own, self.unit));
        }
        words
    }

    /// `text` between ANSI escapes, when colour is asked for.
    fn paint(&self, code: &str, text: &str) -> String {
        if self.color && !code.is_empty() && !text.is_empty() {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

const DIM: &str = "2";
