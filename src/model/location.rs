//! A location: a function and a line in it.

use super::function::Function;

/// An index into a profile's functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FunctionId(pub u32);

/// An index into a profile's locations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LocationId(pub u32);

/// A function and the line that was executing in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Location {
    /// The function, in the table of the same profile.
    pub function: FunctionId,
    /// 1-based line; 0 when unknown.
    pub line: u32,
}

/// The tables that give a profile's ids their meaning.
#[derive(Clone, Debug, Default)]
pub struct Symbols {
    /// By [`FunctionId`].
    pub functions: Vec<Function>,
    /// By [`LocationId`].
    pub locations: Vec<Location>,
}

impl Symbols {
    /// The function that `location` lies in.
    #[must_use]
    pub fn function_of(&self, location: LocationId) -> &Function {
        &self.functions[self.location(location).function.0 as usize]
    }

    /// The location behind an id of this profile.
    #[must_use]
    pub fn location(&self, location: LocationId) -> Location {
        self.locations[location.0 as usize]
    }
}
