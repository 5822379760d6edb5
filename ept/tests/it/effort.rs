// SPDX-License-Identifier: GPL-2.0

//! How much is explored.

/// How much time there is.
#[derive(Clone, Copy, Debug)]
pub enum Effort {
    /// Seconds: the build is not optimized, and what is explored is explored again by one that is.
    Little,
    /// A minute.
    Usual,
    /// Many minutes.
    Long,
}

impl Effort {
    /// That of this build and run.
    pub fn now() -> Self {
        let long = std::env::var("UVISOR_LONG").is_ok_and(|long| long == "1");
        match (cfg!(debug_assertions), long) {
            (true, _) => Self::Little,
            (_, false) => Self::Usual,
            _ => Self::Long,
        }
    }
}
