//! The main job: sample stacks, attribute them, hand a [`model::Profile`] to a renderer.

pub mod config;
pub mod model;
pub mod processes;
pub mod raw;
pub mod sideband;
pub mod unwind;
