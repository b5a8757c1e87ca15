//! Instructions of CPython's bytecode, as far as they matter for what an expression is called.
//!
//! By number: what an instruction does, and how many units of two bytes it keeps behind itself. Those
//! that the interpreter puts in place of others while it runs do the same. The numbers of a version do
//! not change (`Lib/_opcode_metadata.py`, `Lib/opcode.py`; 3.10-3.12: `Include/opcode.h`).
#![forbid(unsafe_code)]

/// What an instruction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Continues the argument of the next one.
    Extends,
    /// Loads a variable of the function.
    Variable,
    /// Loads two of them.
    Variables,
    /// Loads a variable of an outer function.
    Cell,
    /// Loads a variable of the module.
    Global,
    /// Loads a name.
    Name,
    /// Loads an attribute of the value on top.
    Attribute,
    /// Loads a method of the value on top.
    Method,
    /// Loads a constant.
    Constant,
    /// Makes one value of two.
    Binary,
    /// Changes the value on top, or nothing that matters.
    Nothing,
    /// Calls with so many arguments.
    Call,
    /// Calls with so many arguments and their names, which are on top.
    CallNamed,
    /// Enters a `with`, also an asynchronous one.
    Enter,
    /// Takes what a call has returned, to await it.
    Await,
    /// Loads a method for a `with` (3.14 and later).
    Special,
    /// Moves values for a `with`.
    Moves,
    /// Something else.
    Other,
}

/// The instructions of a version.
#[derive(Clone, Copy, Debug)]
pub struct Opcodes {
    classes: &'static [u8; 256],
    caches: &'static [u8; 256],
}

impl Opcodes {
    /// Those of this minor version.
    #[must_use]
    pub fn of(minor: u32) -> Self {
        match minor {
            10 => V3_10,
            11 => V3_11,
            12 => V3_12,
            13 => V3_13,
            14 => V3_14,
            _ => V3_15,
        }
    }

    /// What the instruction of this number does; `None` where another one is hidden behind it.
    #[must_use]
    pub fn step(&self, opcode: u8) -> Option<Step> {
        Some(match self.classes[usize::from(opcode)] {
            b'E' => Step::Extends,
            b'F' => Step::Variable,
            b'P' => Step::Variables,
            b'D' => Step::Cell,
            b'G' => Step::Global,
            b'N' => Step::Name,
            b'A' => Step::Attribute,
            b'M' => Step::Method,
            b'c' => Step::Constant,
            b'B' => Step::Binary,
            b'U' | b'n' | b'k' => Step::Nothing,
            b'C' | b'p' => Step::Call,
            b'K' => Step::CallNamed,
            b'W' => Step::Enter,
            b'w' => Step::Await,
            b'S' => Step::Special,
            b'Y' | b'Z' => Step::Moves,
            b'?' => return None,
            _ => Step::Other,
        })
    }

    /// The units behind it.
    #[must_use]
    pub fn caches(&self, opcode: u8) -> usize {
        match self.caches[usize::from(opcode)] {
            digit @ b'0'..=b'9' => usize::from(digit - b'0'),
            _ => 10,
        }
    }
}

const V3_10: Opcodes = Opcodes {
    classes: b"\
        .........n.UU..U....B.BBBBBB........................W...........\
        .........w..........................cN....AB........G.......F...\
        ...C...FD....K.WE...D...........MC..............................\
        ................................................................",
    caches: b"\
        0000000000000000000000000000000000000000000000000000000000000000\
        0000000000000000000000000000000000000000000000000000000000000000\
        0000000000000000000000000000000000000000000000000000000000000000\
        0000000000000000000000000000000000000000000000000000000000000000",
};

const V3_11: Opcodes = Opcodes {
    classes: b"\
        n.nBBBBBBn.UUBBUBBBBBBCCCBBBBB....E....AAAAAcFFGG...WW.GMMMM..MM\
        pppp....pp..pppppp.................ZcN....AB.....p..G...YpB.F..p\
        ...w....FD...p.pE...D.nn........M.....p....Ck...................\
        ................................................................",
    caches: b"\
        00011111100001101444444444222200000000044444000550000005aaaa10aa\
        1111000011001111110000000000100400000000004200000100500001100001\
        00000000000001010000000004400044a0000010111400000111100000000000\
        0000000000000000000000000000000000000000000000000000000000000000",
};

const V3_12: Opcodes = Opcodes {
    classes: b"\
        n.n...BBBnBUUBBUB.BBBBBCCB..CC....C...CCCCCCCCCCC...WW..CBBB....\
        ......A.AA..AAAAAAA.c.F.F..........ZcN....AB...GG...G...Y.B.F..F\
        ...w....FD......E......n...................Ck...................\
        ................................................nC...........??.",
    caches: b"\
        0000001110100110101111133100330000300033333333333000000031111011\
        1111009099009999999000000000110400000000009100044400400000110000\
        0000000000000100000040000400000111000011100300000000000000000000\
        0000000000000000000000000000000000000000000001000300000010000000",
};

const V3_13: Opcodes = Opcodes {
    classes: b"\
        nWWB.B........................n...n......UUU.B.......C...KB..Y..\
        .......E.w........AcDF.FP..GN......................Z............\
        .....................nBBBBBBBBBBBBCCCCCCCCCCCCCCCCCCCCBBB......A\
        AAAAAAAAAAAGG..n............................n.......CK.?......?.",
    caches: b"\
        0001010000000000000000000000000000000001300001000000030000110000\
        0000001010000100009000000004010001111000100040000000010000000000\
        0000000000000000000000111111111111333333333333333333331111111119\
        9999999999944110144411333333111000000000000000000011300001111100",
};

const V3_14: Opcodes = Opcodes {
    classes: b"\
        n..B.......................nn....n......UUU.B.......C..KB..Y....\
        .....E.w........AccDF.FPFP..GNcS.....................Z..........\
        nBBBBBBBBBBBBBBCCCCCCCCKKKCCCCCCCCCCCCBBB........AAAAAAAAAAAAAcc\
        GG..n.........................................?.n....n....CK..?.",
    caches: b"\
        0005000000000000000000000000000000000013000050000000300311000000\
        0000001000010000900000000000400010001111001000400000000100000000\
        0555555555555553333333333333333333333311111111111999999999999900\
        4411014441133333311100000000000000000000000001000111100001330101",
};

const V3_15: Opcodes = Opcodes {
    classes: b"\
        n..B.....................nn....n......UUU.B.......C..KB..Y......\
        ...E.w.........AccDF.FPFP..GNcS.....................Z...........\
        nBBBBBBBBBBBBBBBCCCCCCC..CKKKCCCCCCCCCCCCBBB...........AAAAAAAAA\
        AAAAGG..nn...................................?.n....n....CK..?..",
    caches: b"\
        0005100000000000000000000000000000001300005000000030031100000000\
        0000101000100009000000000004000100011110010004000000001000000000\
        1555555555555555333333311333333333333333311111111111111999999999\
        9999441111111444113333331110000000000000000010001111100013311010",
};
