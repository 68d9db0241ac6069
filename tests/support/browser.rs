//! A picture in headless Chromium, driven through chromedriver's `WebDriver` protocol
//! (<https://www.w3.org/TR/webdriver2/>).

// Each test crate that includes this file uses a part of it.
#![allow(dead_code)]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_mins(1);
/// The key under which `WebDriver` wraps a reference to an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// The colours a page asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// `prefers-color-scheme: light`.
    Light,
    /// `prefers-color-scheme: dark`.
    Dark,
}

/// Is there a browser? If not, says so, and fails where tests must not be skipped (`CI=true`).
pub fn available() -> bool {
    let found = |program: &str| {
        let version = Command::new(program)
            .arg("--version")
            .stdout(Stdio::null())
            .status();
        version.is_ok_and(|status| status.success())
    };
    let missing: Vec<_> = ["chromium", "chromedriver"]
        .into_iter()
        .filter(|program| !found(program))
        .collect();
    if missing.is_empty() {
        return true;
    }
    let reason = format!("skipped: {} not installed", missing.join(" and "));
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{reason}");
    eprintln!("{reason}");
    false
}

/// One page in a browser of its own; both end when it is dropped.
pub struct Browser {
    driver: Child,
    port: u16,
    session: String,
    /// Removed when dropped, after the browser has ended.
    user_data: tempfile::TempDir,
}

impl Browser {
    /// Opens `file` as a user would, from the disk, in a window 1200 pixels wide.
    pub fn open(file: &Path) -> Self {
        let user_data = tempfile::tempdir().unwrap();
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let port = driver_port(&mut driver);
        let mut browser = Self {
            driver,
            port,
            session: String::new(),
            user_data,
        };
        let data_dir = format!("--user-data-dir={}", browser.user_data.path().display());
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": {"args": [
                "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
                "--disable-background-networking", "--disable-component-update",
                "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
                "--window-size=1200,900", data_dir,
            ]},
            "goog:loggingPrefs": {"browser": "ALL"},
            "unhandledPromptBehavior": "ignore",
        }}});
        let session = browser.request("POST", "/session", &capabilities);
        browser.session = session["sessionId"].as_str().unwrap().into();
        let url = format!("file://{}", file.canonicalize().unwrap().display());
        browser.post("/url", &json!({ "url": url }));
        // inferno lays the picture out in a timer after the page has loaded.
        browser.script("return new Promise(done => setTimeout(done, 50))");
        browser
    }

    /// The result of JavaScript with a `return`, run in the page.
    pub fn script(&self, body: &str) -> Value {
        self.post("/execute/sync", &json!({"script": body, "args": []}))
    }

    /// Is something of the picture's frame `name` there?
    pub fn has_frame(&self, name: &str) -> bool {
        !self
            .script(&format!("{} return frame ?? null;", find_frame(name)))
            .is_null()
    }

    /// Width of the frame `name` in pixels as drawn now; 0 when hidden.
    pub fn frame_width_px(&self, name: &str) -> f64 {
        let body = "return frame.querySelector('rect').getBoundingClientRect().width;";
        self.script(&format!("{} {body}", find_frame(name)))
            .as_f64()
            .unwrap()
    }

    /// Clicks the widest frame `name`, and gives its width before and after, in pixels.
    pub fn zoom(&self, name: &str) -> (f64, f64) {
        let before = self.frame_width_px(name);
        self.click(&format!("{} return frame;", find_frame(name)));
        (before, self.frame_width_px(name))
    }

    /// Clicks "Reset Zoom".
    pub fn reset_zoom(&self) {
        self.click("return document.getElementById('unzoom');");
    }

    /// Clicks "Search", types `term`, and gives the percentage that the picture says it matched.
    pub fn search(&self, term: &str) -> f64 {
        self.click("return document.getElementById('search');");
        self.post("/alert/text", &json!({ "text": term }));
        self.post("/alert/accept", &json!({}));
        let matched = self.script("return document.getElementById('matched').textContent;");
        let matched = matched.as_str().unwrap();
        let percent = matched
            .strip_prefix("Matched: ")
            .and_then(|rest| rest.strip_suffix('%'));
        percent
            .unwrap_or_else(|| panic!("search says {matched:?}"))
            .parse()
            .unwrap()
    }

    /// Clicks "Reset Search".
    pub fn reset_search(&self) {
        self.click("return document.getElementById('search');");
    }

    /// Errors of the page's scripts, and of loading it, since the last call.
    pub fn script_errors(&self) -> Vec<String> {
        let log = self.post("/se/log", &json!({"type": "browser"}));
        let severe = log
            .as_array()
            .unwrap()
            .iter()
            .filter(|entry| entry["level"] == "SEVERE");
        severe.map(|entry| entry["message"].to_string()).collect()
    }

    /// Makes the page light or dark.
    pub fn set_scheme(&self, scheme: Scheme) {
        let value = match scheme {
            Scheme::Light => "light",
            Scheme::Dark => "dark",
        };
        let features = json!([{"name": "prefers-color-scheme", "value": value}]);
        let command =
            json!({"cmd": "Emulation.setEmulatedMedia", "params": {"features": features}});
        self.post("/goog/cdp/execute", &command);
    }

    /// Saves what the window shows as PNG; makes the folder.
    pub fn screenshot(&self, file: &Path) {
        let path = format!("/session/{}/screenshot", self.session);
        let image = self.request("GET", &path, &Value::Null);
        let png = base64::engine::general_purpose::STANDARD.decode(image.as_str().unwrap());
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, png.unwrap()).unwrap();
    }

    /// Moves the mouse over the element that JavaScript `find` returns.
    pub fn hover(&self, find: &str) {
        let element = self.script(find);
        self.post(
            "/actions",
            &json!({"actions": [{"type": "pointer", "id": "mouse", "actions": [
                {"type": "pointerMove", "duration": 0, "x": 0, "y": 0, "origin": element},
            ]}]}),
        );
    }

    fn click(&self, find: &str) {
        let element = self.script(find);
        let id = element[ELEMENT]
            .as_str()
            .unwrap_or_else(|| panic!("nothing there: {find}"));
        self.post(&format!("/element/{id}/click"), &json!({}));
    }

    fn post(&self, command: &str, body: &Value) -> Value {
        self.request("POST", &format!("/session/{}{command}", self.session), body)
    }

    fn request(&self, method: &str, path: &str, body: &Value) -> Value {
        let answer = http(self.port, method, path, body)
            .unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        let value = &answer["value"];
        assert!(value["error"].is_null(), "{method} {path}: {value}");
        value.clone()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The browser ends with its session; the driver alone would leave it running.
        let path = format!("/session/{}", self.session);
        if let Err(error) = http(self.port, "DELETE", &path, &Value::Null) {
            eprintln!("browser may still run: {error}");
        }
        self.driver.kill().ok();
        self.driver.wait().ok();
    }
}

/// JavaScript that sets `frame` to the widest frame called `name`.
fn find_frame(name: &str) -> String {
    let name = Value::from(name);
    format!(
        "const width = g => Number(g.querySelector('rect').getAttribute('fg:w'));
        const name = g => g.querySelector('title').textContent.replace(/ \\([^(]*\\)$/, '');
        const frame = [...document.querySelectorAll('#frames > g')]
            .filter(g => name(g) === {name}).sort((a, b) => width(b) - width(a))[0];"
    )
}

/// chromedriver chooses a free port and says which.
fn driver_port(driver: &mut Child) -> u16 {
    let mut output = BufReader::new(driver.stdout.take().unwrap());
    let mut line = String::new();
    let port = loop {
        line.clear();
        assert!(
            output.read_line(&mut line).unwrap() > 0,
            "chromedriver ended"
        );
        if let Some((_, port)) = line
            .trim_end()
            .trim_end_matches('.')
            .rsplit_once("on port ")
            && let Ok(port) = port.parse()
            && port != 0
        {
            break port;
        }
    };
    // Nobody may fill the pipe.
    std::thread::spawn(move || io::copy(&mut output, &mut io::sink()));
    port
}

/// One request over a connection of its own; the body of the answer.
fn http(port: u16, method: &str, path: &str, body: &Value) -> io::Result<Value> {
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let deadline = Instant::now() + TIMEOUT;
    let mut stream = loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => break stream,
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    stream.set_read_timeout(Some(TIMEOUT))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
        if line.is_empty() {
            break;
        }
    }
    let mut answer = vec![0; length];
    reader.read_exact(&mut answer)?;
    serde_json::from_slice(&answer).map_err(io::Error::other)
}
