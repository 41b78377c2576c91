//! intercept.
