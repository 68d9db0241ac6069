//! The main job: sample stacks, attribute them, hand a [`model::Profile`] to a renderer.

pub mod abi;
pub mod attribute;
pub mod cgroup;
pub mod collect;
pub mod command;
pub mod config;
pub mod cpu_time;
pub mod cpus;
pub mod event;
pub mod model;
pub mod processes;
pub mod progress;
pub mod quality;
pub mod raw;
pub mod report;
pub mod sampler;
pub mod session;
pub mod sideband;
pub mod signals;
pub mod unwind;
