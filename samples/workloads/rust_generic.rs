//! Rust names: modules, generics, trait methods, and functions inlined into their caller.
//! Runs for SECONDS and prints the CPU time of its functions like the C workloads.

use std::arch::asm;
use std::time::{Duration, Instant};

/// About a millisecond of spinning.
const UNIT_ITERATIONS: u64 = 3_000_000;

mod kernel {
    use super::{UNIT_ITERATIONS, asm};

    /// Inlined into every caller; only DWARF knows that it was here.
    #[inline(always)]
    pub fn spin(units: u64) {
        for left in 0..units * UNIT_ITERATIONS {
            // SAFETY: no instruction at all; it only keeps the loop.
            unsafe { asm!("/* {0} */", in(reg) left, options(nomem, nostack)) };
        }
    }
}

trait Cost {
    const UNITS: u64;
}
struct Light;
struct Heavy;
impl Cost for Light {
    const UNITS: u64 = 1;
}
impl Cost for Heavy {
    const UNITS: u64 = 4;
}

struct Engine<C: Cost>(std::marker::PhantomData<C>);

impl<C: Cost> Engine<C> {
    #[inline(never)]
    fn turn(&self) {
        kernel::spin(C::UNITS);
        // SAFETY: no instruction; keeps the two instances from being merged with a tail call.
        unsafe { asm!("/* {0} */", in(reg) self, options(nostack)) };
    }
}

fn thread_cpu_ns() -> u64 {
    #[repr(C)]
    struct Timespec {
        seconds: i64,
        nanoseconds: i64,
    }
    unsafe extern "C" {
        fn clock_gettime(id: i32, now: *mut Timespec) -> i32;
    }
    const CLOCK_THREAD_CPUTIME_ID: i32 = 3;
    let mut now = Timespec { seconds: 0, nanoseconds: 0 };
    // SAFETY: `now` is a timespec of this platform and outlives the call.
    unsafe { clock_gettime(CLOCK_THREAD_CPUTIME_ID, &raw mut now) };
    now.seconds as u64 * 1_000_000_000 + now.nanoseconds as u64
}

#[inline(never)]
fn drive<C: Cost>(engine: &Engine<C>) -> u64 {
    let start_ns = thread_cpu_ns();
    engine.turn();
    thread_cpu_ns() - start_ns
}

fn main() {
    let seconds = std::env::args().nth(1).and_then(|text| text.parse().ok());
    let seconds: f64 = seconds.expect("usage: rust_generic SECONDS");
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let (mut light_ns, mut heavy_ns) = (0, 0);
    while Instant::now() < end {
        light_ns += drive(&Engine::<Light>(std::marker::PhantomData));
        heavy_ns += drive(&Engine::<Heavy>(std::marker::PhantomData));
    }
    println!(r#"{{"cpu_ns": {{"light": {light_ns}, "heavy": {heavy_ns}}}}}"#);
}
