//! The law of sampling: each byte that is allocated is a trial, and a block is sampled if one of its
//! bytes succeeds. A sample stands for as many blocks as its chance says, so the rate may change at
//! any time.
#![forbid(unsafe_code)]

/// The chance of a block of so many bytes, where on average one byte in `rate` succeeds.
#[must_use]
pub fn chance(bytes: u64, rate: f64) -> f64 {
    -(-(bytes.max(1) as f64) / rate).exp_m1()
}

/// A sequence of numbers by chance (splitmix64, Steele, Lea and Flood 2014).
#[derive(Clone, Debug)]
pub struct Chances(u64);

impl Chances {
    /// One that `seed` tells from others.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// What [`Self::new`] makes the rest of the sequence of.
    #[must_use]
    pub const fn state(&self) -> u64 {
        self.0
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// Above 0, at most 1.
    pub fn unit(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    /// Bytes until the next success: exponential with the mean `rate`.
    pub fn bytes_to_next(&mut self, rate: f64) -> i64 {
        (-self.unit().ln() * rate) as i64
    }
}

/// A number that looks like chance, another one for each `bits`.
#[must_use]
#[inline]
pub const fn mix(bits: u64) -> u64 {
    let bits = (bits ^ bits >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let bits = (bits ^ bits >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ bits >> 31
}
