//! A location: a function and a line in it or, in profiles of native code, an address in a mapping.

use std::sync::Arc;

use super::function::Function;

/// An index into a profile's functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FunctionId(pub u32);

/// An index into a profile's locations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LocationId(pub u32);

/// An index into a profile's mappings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MappingId(pub u32);

impl MappingId {
    /// The first one, which is the program.
    pub const MAIN: Self = Self(0);
    /// None at all.
    pub const NONE: Self = Self(u32::MAX);
}

/// What a profile says of the origins of its frames; 0 for frames that have none but their function
/// and line, as all of Python code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OriginId(pub u32);

/// A function and the line that was executing in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Location {
    /// The function, in the table of the same profile.
    pub function: FunctionId,
    /// 1-based line; 0 when unknown.
    pub line: u32,
    /// Where its code is.
    pub origin: OriginId,
}

/// Where the code of a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    /// The mapping that has it, in the table of the same profile.
    pub mapping: MappingId,
    /// Its address in memory; 0 when unknown.
    pub address: u64,
    /// 1-based column of the line; 0 when unknown.
    pub column: u32,
    /// Whether the frame was inlined into its caller, which has the same address.
    pub is_inlined: bool,
    /// Whether several frames were folded into this one.
    pub is_folded: bool,
    /// Whether no function is known: the frame's is a name for its address.
    pub is_bare: bool,
}

impl Default for Origin {
    fn default() -> Self {
        Self {
            mapping: MappingId::MAIN,
            address: 0,
            column: 0,
            is_inlined: false,
            is_folded: false,
            is_bare: false,
        }
    }
}

/// A file, or a piece of one, that code was run from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Mapping {
    /// Where it begins in memory.
    pub start: u64,
    /// Where it ends.
    pub limit: u64,
    /// Where it begins in the file.
    pub offset: u64,
    /// The file's name.
    pub file: Arc<str>,
    /// What tells this file from others of that name.
    pub build_id: Arc<str>,
    /// Whether functions, file names, line numbers and inlined frames of it are known.
    pub known: [bool; 4],
}

impl Mapping {
    /// The one mapping of a profile of Python code: it names the program.
    #[must_use]
    pub fn of_program(name: &str) -> Self {
        Self {
            file: Arc::from(name),
            known: [true, true, true, false],
            ..Self::default()
        }
    }

    /// Whether it is no more than a name.
    #[must_use]
    pub fn is_name(&self) -> bool {
        (self.start, self.limit, self.offset) == (0, 0, 0) && self.build_id.is_empty()
    }

    /// A name for an address of which no function is known: `libfoo.so+0x1234`, by the offset in
    /// the file, which is the same wherever that was loaded.
    #[must_use]
    pub fn name_of(mapping: Option<&Self>, address: u64) -> String {
        match mapping {
            Some(mapping)
                if !mapping.file.is_empty()
                    && (mapping.start..mapping.limit).contains(&address) =>
            {
                let file = mapping.file.rsplit(['/', '\\']).next().unwrap_or_default();
                let offset = (address - mapping.start).wrapping_add(mapping.offset);
                format!("{file}+{offset:#x}")
            }
            _ => format!("{address:#x}"),
        }
    }
}

/// The tables that give a profile's ids their meaning.
#[derive(Clone, Debug, Default)]
pub struct Symbols {
    /// By [`FunctionId`].
    pub functions: Vec<Function>,
    /// By [`LocationId`].
    pub locations: Vec<Location>,
    /// By [`OriginId`], from 1.
    pub origins: Vec<Origin>,
    /// By [`MappingId`].
    pub mappings: Vec<Mapping>,
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

    /// Where the code of `location` is.
    #[must_use]
    pub fn origin_of(&self, location: Location) -> Origin {
        let at = (location.origin.0 as usize).checked_sub(1);
        at.map_or_else(Origin::default, |at| self.origins[at])
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::Mapping;

    #[test]
    fn an_address_without_a_function_has_a_name() {
        let library = Mapping {
            start: 0x7f00_0000_1000,
            limit: 0x7f00_0000_9000,
            offset: 0x2000,
            file: Arc::from("/usr/lib/libfoo.so"),
            ..Mapping::default()
        };
        for (mapping, address, name) in [
            (Some(&library), 0x7f00_0000_1234, "libfoo.so+0x2234"),
            (Some(&library), 0x7f00_0000_9000, "0x7f0000009000"),
            (Some(&Mapping::of_program("app")), 0xbeef, "0xbeef"),
            (None, 0xbeef, "0xbeef"),
        ] {
            assert_eq!(Mapping::name_of(mapping, address), name);
        }
    }
}
