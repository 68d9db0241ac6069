//! `flame` answers "where does the time go?" on a Linux machine.
//!
//! The crate is a library with a thin binary. One sample's way through it:
//! the kernel side counts stacks ([`bpf`]), [`profile`] drains them and knows which file was
//! mapped where, [`symbolize`] names every unique address once, [`render`] writes the picture.
//! `docs/ARCHITECTURE.md` follows it end to end.

pub mod bpf;
pub mod cache;
pub mod cli;
pub mod error;
pub mod preflight;
pub mod profile;
pub mod render;
pub mod symbolize;
pub mod tools;
mod wait;
