//! Python with modules that Debian does not have.

use crate::harness::skip::cannot_run;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// Two tests do not bring the same ones at once.
static BRINGING: Mutex<()> = Mutex::new(());

/// One that has these modules: the system's, or one of its own in the folder of that name, into
/// which they are brought once.
pub fn python_with(modules: &[&str], folder: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(folder);
    let has_them = |python: &Path| {
        // What PyPI calls PyYAML is yaml.
        let imports = modules.join(", ").replace("pyyaml", "yaml");
        let imported = Command::new(python).args(["-c", &format!("import {imports}")]).output();
        imported.is_ok_and(|output| output.status.success())
    };
    let system = PathBuf::from("python3");
    if has_them(&system) {
        return system;
    }
    let _one = BRINGING.lock().unwrap_or_else(PoisonError::into_inner);
    let own = folder.join("bin/python3");
    if !has_them(&own) {
        let made = Command::new(&system).args(["-m", "venv"]).arg(folder).output();
        let mut pip = Command::new(&own);
        pip.args(["-m", "pip", "install", "--quiet"]).args(modules);
        let installed = made.and_then(|_| pip.output());
        if !has_them(&own) {
            let why = installed.map(|output| String::from_utf8_lossy(&output.stderr).into_owned());
            let why = why.unwrap_or_else(|error| error.to_string());
            let last = why.lines().last().unwrap_or_default().to_owned();
            cannot_run(&format!("python3 with {}: {last}", modules.join(" and ")));
        }
    }
    own
}
