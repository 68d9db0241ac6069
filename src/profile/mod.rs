//! The main job: sample stacks, attribute them, hand a [`model::Profile`] to a renderer.

pub mod abi;
pub mod cgroup;
pub mod collect;
pub mod command;
pub mod config;
pub mod event;
pub mod model;
pub mod processes;
pub mod raw;
pub mod sideband;
pub mod signals;
