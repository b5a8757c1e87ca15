//! Integration tests of the pure rooms.
