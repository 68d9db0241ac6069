//! Rust names: modules, generics, trait methods, and functions inlined into their caller.
//! Runs for SECONDS and prints the CPU time of its functions like the C workloads.

use std::time::{Duration, Instant};

/// About a millisecond of spinning.
const UNIT_ITERATIONS: u64 = 600_000;

mod kernel {
    use std::hint::black_box;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::UNIT_ITERATIONS;

    /// Marsaglia's xorshift64.
    static STATE: AtomicU64 = AtomicU64::new(88_172_645_463_325_252);

    /// A number from 3/4 to 5/4 of its argument: a loop whose period is a multiple of the sampling
    /// period would be seen at the same few points again and again.
    #[inline(always)]
    fn jittered(iterations: u64) -> u64 {
        let mut state = STATE.load(Relaxed);
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        STATE.store(state, Relaxed);
        iterations * 3 / 4 + state % (iterations / 2)
    }

    /// Inlined into every caller; only DWARF knows that it was here.
    #[inline(always)]
    pub fn spin(units: u64) {
        // In memory, so that the caller has a stack frame and a frame pointer.
        let mut left = jittered(units * UNIT_ITERATIONS);
        while *black_box(&mut left) > 0 {
            left -= 1;
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
    let mut now = Timespec {
        seconds: 0,
        nanoseconds: 0,
    };
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
