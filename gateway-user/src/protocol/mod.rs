//! Protocols, each as a driver of one flow: reads operations, has each judged, carries out what was allowed. Refuses
//! what the target's protocol is not.

pub mod http;

use crate::record::entry::Ending;

/// How a flow ended, as far as its driver can tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// Operations it carried, refused ones included.
    pub entries: u64,
}

/// A flow that did not end as it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Operations it carried until then.
    pub entries: u64,
    /// What broke it, and whose fault that was.
    pub ending: Ending,
}
