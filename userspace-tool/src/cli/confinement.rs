// SPDX-License-Identifier: GPL-2.0

//! The sandbox that `uvctl` enters before it serves a task.

use std::env::current_dir;

use uvisor::confine::{self, Confined};
use uvisor::profile::Rules;
use uvisor::sandbox::{Kept, Layer, Layers, Skipped, Why};

use super::run::RunError;

/// How far `uvctl` confines itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Confinement {
    layers: Option<Layers>,
    /// Whether what the host lacks of it is an error.
    require: bool,
}

impl Confinement {
    /// As far as the host lets it.
    pub(crate) fn new(require: bool) -> Self {
        let layers = Some(Layers::ALL);
        Self { layers, require }
    }

    /// Not at all.
    pub(crate) const NONE: Self = Self {
        layers: None,
        require: false,
    };

    /// Whether what the host lacks is an error.
    pub(crate) fn is_required(&self) -> bool {
        self.require
    }

    /// The same without a root of its own.
    pub(crate) fn but_the_root(self) -> Self {
        Self {
            layers: self.layers.map(|layers| layers.without(Layer::Root)),
            ..self
        }
    }

    /// Says that a rule has no effect, where that is worth it: what is not there is not there for the program either, and
    /// `/proc` is what the personality makes it.
    fn tell(&self, skipped: &Skipped) -> Result<(), RunError> {
        let (path, why) = (skipped.path.display(), skipped.why);
        if skipped.is_open && self.require {
            return Err(RunError::Privileges(format!(
                "--require: {path}: {why}, so the program may have more there than the rule about it says"
            )));
        }
        let is_usual = match why {
            Why::Missing => true,
            Why::Own => skipped.path.starts_with("/proc"),
            Why::Lookup(_) | Why::NoPlace => false,
        };
        if skipped.is_open || !is_usual {
            eprintln!("uvctl: {path}: {why}, so the rule about it has no effect");
        }
        Ok(())
    }

    /// Confines this process, for ever; `kept` are the overlays whose changes are kept.
    pub(crate) fn enter(&self, rules: Rules, kept: &[Kept]) -> Result<Confined, RunError> {
        let directory = current_dir().ok();
        let confined = match self.layers {
            Some(layers) => confine::confine(rules, layers, kept),
            None => confine::without(rules),
        };
        let confined = confined.map_err(|error| RunError::Privileges(error.to_string()))?;
        if let Some(path) = directory.filter(|path| current_dir().ok().as_ref() != Some(path)) {
            let path = path.display();
            eprintln!("uvctl: {path} is not there for the program, which starts in / instead");
        }
        for skipped in &confined.report.skipped {
            self.tell(skipped)?;
        }
        match confined.report.lacks.first() {
            Some(lack) if self.require => Err(RunError::Privileges(format!(
                "--require: the host lacks something for the confinement of the process that serves the program \
                 ({}): {}",
                lack.layer, lack.what
            ))),
            _ => Ok(confined),
        }
    }
}
