//! Perf side-band records (mmap2, comm, fork, exit): what processes did while we sampled.
