//! The command line: clap types in, plain configurations out.
