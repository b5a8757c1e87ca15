//! Who called whom: the table that cProfile makes, from samples.
#![forbid(unsafe_code)]

use rustc_hash::FxHashMap;

use super::refuse_difference;
use super::sums::add;
use super::walk::{Step, walk};
use crate::error::Result;
use crate::fold::profile::Profile;
use crate::model::function::Function;
use crate::model::location::FunctionId;

/// What a function, or a function called by one caller, used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Samples that have it on their stack; 0 where the profile counts no samples.
    pub samples: i64,
    /// Spent in the function itself.
    pub own: i64,
    /// Spent in it and below; recursion counts once for each stack.
    pub total: i64,
}

/// A function, its cost, and its cost by caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Called {
    /// The function.
    pub function: Function,
    /// All its calls together.
    pub cost: Cost,
    /// Its calls by caller. A function that calls itself is among its own callers.
    pub callers: Vec<(Function, Cost)>,
}

/// The outermost frame has no caller.
type Edge = (Option<FunctionId>, FunctionId);

/// Every function with a value, in the order of the profile's table.
///
/// # Errors
/// When a value is below 0: nothing is called less than never.
pub fn calls(
    profile: &Profile,
    column: usize,
    samples_column: Option<usize>,
) -> Result<Vec<Called>> {
    for column in [Some(column), samples_column].into_iter().flatten() {
        let kind = profile.columns[column].name();
        refuse_difference(profile, column, kind, "the format of pstats")?;
    }
    let functions = &profile.symbols.functions;
    let mut by_function = Costs::new(functions.len());
    let mut by_edge = Costs::new(0);
    let mut edges: FxHashMap<Edge, usize> = FxHashMap::default();
    let mut edge_list: Vec<Edge> = Vec::new();
    let tree = &profile.tree;
    let own = profile.self_values(column);
    let total = profile.total_values(column);
    let samples = samples_column.map(|column| profile.total_values(column));
    let function_of = |node| profile.symbols.location(tree.location(node)).function;
    let mut edges_on_stack: Vec<usize> = Vec::new();
    for step in walk(tree) {
        match step {
            Step::Enter(node) => {
                let at = node.index();
                let cost = Cost {
                    samples: samples.as_ref().map_or(0, |samples| samples[at]),
                    own: own[at],
                    total: total[at],
                };
                let callee = function_of(node);
                let caller = edges_on_stack.last().map(|edge| edge_list[*edge].1);
                let next = edge_list.len();
                let edge = *edges.entry((caller, callee)).or_insert(next);
                if edge == next {
                    edge_list.push((caller, callee));
                    by_edge.grow();
                }
                edges_on_stack.push(edge);
                by_function.enter(callee.0 as usize, cost);
                by_edge.enter(edge, cost);
            }
            Step::Leave(node) => {
                by_function.leave(function_of(node).0 as usize);
                if let Some(edge) = edges_on_stack.pop() {
                    by_edge.leave(edge);
                }
            }
        }
    }
    let mut rows: Vec<Called> = functions
        .iter()
        .zip(&by_function.costs)
        .map(|(function, cost)| Called {
            function: function.clone(),
            cost: *cost,
            callers: Vec::new(),
        })
        .collect();
    for ((caller, callee), cost) in edge_list.into_iter().zip(by_edge.costs) {
        if let Some(caller) = caller
            && cost != Cost::default()
        {
            let caller = functions[caller.0 as usize].clone();
            rows[callee.0 as usize].callers.push((caller, cost));
        }
    }
    rows.retain(|row| row.cost != Cost::default());
    Ok(rows)
}

/// Costs by some index, and how often each index stands on the present stack.
struct Costs {
    costs: Vec<Cost>,
    on_stack: Vec<u32>,
}

impl Costs {
    fn new(count: usize) -> Self {
        Self {
            costs: vec![Cost::default(); count],
            on_stack: vec![0; count],
        }
    }

    fn grow(&mut self) {
        self.costs.push(Cost::default());
        self.on_stack.push(0);
    }

    fn enter(&mut self, at: usize, cost: Cost) {
        let sum = &mut self.costs[at];
        add(&mut sum.own, cost.own);
        if self.on_stack[at] == 0 {
            add(&mut sum.samples, cost.samples);
            add(&mut sum.total, cost.total);
        }
        self.on_stack[at] += 1;
    }

    fn leave(&mut self, at: usize) {
        self.on_stack[at] -= 1;
    }
}
