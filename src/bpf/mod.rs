//! The one loader every mode shares; the only place that names aya.
