//! The `flame` binary: parse, dispatch, map the result to an exit status.
fn main() {}
