//! A browser that a test looks at pages with.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use fantoccini::key::Key;
use fantoccini::{Client, ClientBuilder, Locator};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::harness::process::Process;
use crate::harness::program::free_port;
use crate::harness::skip::cannot_run;

/// How long something may take to be shown, however busy the cores are.
pub const SHOWN_WITHIN: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A window of a browser with nothing in its past.
pub struct Browser {
    runtime: Runtime,
    client: Option<Client>,
    _driver: Process,
    _profile: TempDir,
}

impl Browser {
    /// Starts it.
    pub fn start() -> Self {
        install();
        let profile = tempfile::tempdir().unwrap();
        let port = free_port();
        let mut command = Command::new("chromedriver");
        command.arg(format!("--port={port}")).env("HOME", profile.path());
        let mut driver = Process::spawn(&mut command);
        assert!(driver.says("started successfully", SHOWN_WITHIN), "{}", driver.said());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = runtime.block_on(
            ClientBuilder::new(hyper_util::client::legacy::connect::HttpConnector::new())
                .capabilities(capabilities(profile.path()))
                .connect(&format!("http://127.0.0.1:{port}")),
        );
        let client = client.unwrap_or_else(|error| panic!("{error}\n{}", driver.said()));
        Self { runtime, client: Some(client), _driver: driver, _profile: profile }
    }

    fn client(&self) -> &Client {
        self.client.as_ref().unwrap()
    }

    /// Goes to a page.
    pub fn go(&self, url: &str) {
        self.runtime.block_on(self.client().goto(url)).unwrap();
    }

    /// What a script in the page returns.
    pub fn run(&self, script: &str) -> Value {
        self.runtime.block_on(self.client().execute(script, Vec::new())).unwrap()
    }

    /// The text of what the selector finds first; empty where there is nothing.
    pub fn text(&self, selector: &str) -> String {
        let script = format!("return document.querySelector({selector:?})?.textContent ?? ''");
        self.run(&script).as_str().unwrap().to_owned()
    }

    /// Waits until the text of what the selector finds is as it should be.
    pub fn shows(&self, selector: &str, is_right: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + SHOWN_WITHIN;
        loop {
            let text = self.text(selector);
            if is_right(&text) {
                return text;
            }
            assert!(Instant::now() < end, "{selector} shows {text:?}");
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Types into what has the focus, as a person would.
    pub fn press(&self, keys: &str) {
        self.runtime.block_on(async {
            let active = self.client().active_element().await.unwrap();
            active.send_keys(keys).await.unwrap();
        });
    }

    pub fn press_key(&self, key: Key) {
        self.press(&String::from(char::from(key)));
    }

    pub fn click(&self, selector: &str) {
        self.runtime.block_on(async {
            let found = self.client().find(Locator::Css(selector)).await.unwrap();
            found.click().await.unwrap();
        });
    }

    /// The identifier of what has the focus.
    pub fn focused(&self) -> String {
        self.run("return document.activeElement?.id ?? ''").as_str().unwrap().to_owned()
    }

    /// How wide and how high the page is shown, and whether light or dark.
    pub fn look(&self, (width, height): (u32, u32), scheme: &str) {
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            &json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}),
        );
        self.devtools(
            "Emulation.setEmulatedMedia",
            &json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]}),
        );
    }

    fn devtools(&self, command: &str, parameters: &Value) {
        let body = json!({"cmd": command, "params": parameters});
        let command = Devtools(body.to_string());
        self.runtime.block_on(self.client().issue_cmd(command)).unwrap();
    }

    /// A picture of the window, kept where `PAGE_PICTURES` names a folder.
    pub fn picture(&self, name: &str) -> Vec<u8> {
        let picture = self.runtime.block_on(self.client().screenshot()).unwrap();
        if let Some(folder) = std::env::var_os("PAGE_PICTURES") {
            fs::write(Path::new(&folder).join(name), &picture).unwrap();
        }
        picture
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            // The driver is killed all the same.
            let _ = self.runtime.block_on(client.close());
        }
    }
}

/// A command of the browser's own tools.
#[derive(Debug)]
struct Devtools(String);

impl fantoccini::wd::WebDriverCompatibleCommand for Devtools {
    fn endpoint(
        &self,
        base: &url::Url,
        session: Option<&str>,
    ) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/goog/cdp/execute", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(self.0.clone()))
    }
}

/// It asks nobody but the page's server: not its maker either.
fn capabilities(profile: &Path) -> serde_json::Map<String, Value> {
    let data = format!("--user-data-dir={}", profile.display());
    let arguments = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
        "--window-size=1280,900",
        &data,
    ];
    let capabilities = json!({
        "browserName": "chrome",
        "goog:chromeOptions": {"args": arguments},
        "goog:loggingPrefs": {"browser": "ALL"},
    });
    capabilities.as_object().unwrap().clone()
}

fn install() {
    let packages = concat!(env!("CARGO_MANIFEST_DIR"), "/ci/packages");
    let output = Command::new(packages).args(["chromium", "chromedriver"]).output().unwrap();
    if !output.status.success() {
        cannot_run(&String::from_utf8_lossy(&output.stderr));
    }
}
