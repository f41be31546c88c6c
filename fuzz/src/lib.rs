//! Fuzz targets of everything a guest or the network can feed the node; see `fuzz_targets`.
//!
//! A target checks more than that nothing panics: what was accepted must survive being shown and read
//! again, and what is refused must be refused by an error, not by a crash or by unbounded work.
