//! Any bytes: reading never panics, and what is read keeps what it says through everything.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/core/invariants.rs"]
mod invariants;

fuzz_target!(|bytes: &[u8]| {
    invariants::hold_for(bytes);
});
