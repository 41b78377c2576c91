#![no_std]
//! The contract between the kernel programs and the enforcer.
