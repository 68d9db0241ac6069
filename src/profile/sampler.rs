//! The sampling perf events: one per CPU, each running the BPF program on overflow.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};
use perf_event_open_sys::bindings::{PERF_FORMAT_TOTAL_TIME_ENABLED, perf_event_attr};
use perf_event_open_sys::{ioctls, perf_event_open};
use rustix::io::Errno;

use super::cpu_time::IdleTimes;
use super::event::{self, Event, Sampling};
use crate::bpf::Bpf;
use crate::preflight;

/// `PERF_FLAG_FD_CLOEXEC`
const FLAG_FD_CLOEXEC: libc::c_ulong = 8;

/// Open sampling events, disabled until [`Sampler::start`].
#[derive(Debug)]
pub struct Sampler {
    /// By CPU.
    events: Vec<(u32, OwnedFd)>,
    idle_at_start: IdleTimes,
    frequency_hz: u64,
    is_wall_clock: bool,
}

impl Sampler {
    /// Opens the event on each CPU and lets `program` run on its overflows. A CPU that went
    /// offline since it was listed is left out.
    ///
    /// # Errors
    /// When no CPU has the event, or the kernel refuses; says which event and what to try.
    pub fn open(
        bpf: &mut Bpf,
        program: &str,
        cpus: &[u32],
        event_name: &str,
        frequency_hz: u64,
    ) -> Result<Self> {
        let event = event::by_name(event_name)?;
        let mut events = Vec::with_capacity(cpus.len());
        for &cpu in cpus {
            match open_event(&event, frequency_hz, cpu) {
                Ok(descriptor) => events.push((cpu, descriptor)),
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) && is_offline(cpu) => {
                    tracing::info!(cpu, "offline, not sampled");
                }
                Err(error) => return Err(explain(error, event_name)),
            }
        }
        for (_, descriptor) in &events {
            bpf.run_on_event(program, descriptor.as_fd())?;
        }
        Ok(Self {
            events,
            idle_at_start: IdleTimes::default(),
            frequency_hz,
            is_wall_clock: event.is_wall_clock(),
        })
    }

    /// Number of CPUs that are sampled.
    #[must_use]
    pub fn cpus(&self) -> usize {
        self.events.len()
    }

    /// Starts sampling.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn start(&mut self) -> Result<()> {
        self.idle_at_start = IdleTimes::read();
        // SAFETY: the descriptor is an open perf event; the argument is unused.
        self.each(|event| unsafe { ioctls::ENABLE(event.as_raw_fd(), 0) })
            .context("cannot start sampling")
    }

    /// Stops sampling: no BPF program starts after this.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn stop(&self) -> Result<()> {
        // SAFETY: the descriptor is an open perf event; the argument is unused.
        self.each(|event| unsafe { ioctls::DISABLE(event.as_raw_fd(), 0) })
            .context("cannot stop sampling")
    }

    /// Samples that the clock should have delivered while the events were enabled, over all CPUs;
    /// `None` for events that count something else than time. `idle_samples` are those that came
    /// from the idle task, by CPU: an idle CPU whose clock stood still owes no more than these.
    ///
    /// # Errors
    /// When an event cannot be read.
    pub fn expected_samples(&self, idle_samples: &[u64]) -> Result<Option<u64>> {
        if !self.is_wall_clock {
            return Ok(None);
        }
        let period_ns = 1_000_000_000 / self.frequency_hz.max(1);
        let now = IdleTimes::read();
        let mut expected = 0;
        for (cpu, event) in &self.events {
            let idle = now.since(&self.idle_at_start, *cpu) / period_ns;
            let sampled_idle = idle_samples.get(*cpu as usize).copied().unwrap_or(0);
            let of_all_time = enabled_ns(event.as_fd())? / period_ns;
            expected += of_all_time.saturating_sub(idle.saturating_sub(sampled_idle));
        }
        Ok(Some(expected))
    }

    fn each(&self, control: impl Fn(BorrowedFd<'_>) -> i32) -> io::Result<()> {
        for (_, event) in &self.events {
            if control(event.as_fd()) < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }
}

fn open_event(event: &Event, frequency_hz: u64, cpu: u32) -> io::Result<OwnedFd> {
    let mut attr = perf_event_attr {
        size: size_of::<perf_event_attr>() as u32,
        type_: event.perf_type,
        config: event.config,
        read_format: u64::from(PERF_FORMAT_TOTAL_TIME_ENABLED),
        ..perf_event_attr::default()
    };
    attr.set_disabled(1);
    match event.sampling {
        Sampling::Frequency => {
            attr.set_freq(1);
            attr.__bindgen_anon_1.sample_freq = frequency_hz;
        }
        Sampling::Every(occurrences) => attr.__bindgen_anon_1.sample_period = occurrences,
    }
    // SAFETY: `attr` is initialised and carries its size; pid -1 with a CPU is a valid pair.
    let descriptor =
        unsafe { perf_event_open(&raw mut attr, -1, cpu.cast_signed(), -1, FLAG_FD_CLOEXEC) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Nanoseconds an event was enabled (`PERF_FORMAT_TOTAL_TIME_ENABLED`: value, time).
fn enabled_ns(event: BorrowedFd<'_>) -> Result<u64> {
    let mut words = [0_u8; 16];
    rustix::io::read(event, &mut words).context("cannot read a perf event's time")?;
    let (_, time) = words.split_at(8);
    Ok(time.try_into().map_or(0, u64::from_ne_bytes))
}

fn is_offline(cpu: u32) -> bool {
    super::cpus::online_cpus().is_ok_and(|online| !online.contains(&cpu))
}

fn explain(error: io::Error, event: &str) -> anyhow::Error {
    let paranoid = std::fs::read_to_string("/proc/sys/kernel/perf_event_paranoid")
        .ok()
        .and_then(|text| text.trim().parse().ok());
    match Errno::from_io_error(&error) {
        Some(errno) => preflight::explain_perf_error(errno, event, paranoid).into(),
        None => error.into(),
    }
}
