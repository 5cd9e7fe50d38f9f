//! Headless Chromium of Debian, driven through its debugging pipe: loads pages, clicks, types, and records network
//! requests and console messages.

use super::process::Proc;
use super::{Skip, program, require, short_directory};
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use tempfile::TempDir;

/// A browser with one page.
pub struct Browser {
    to: File,
    from: Receiver<Value>,
    session: Option<String>,
    requests: u64,
    events: Vec<Value>,
    _process: Proc,
    _home: TempDir,
}

const PATIENCE: Duration = Duration::from_secs(60);

impl Browser {
    /// # Panics
    /// If it is installed and does not start. The other functions panic if the browser does not respond.
    pub fn start() -> Result<Browser, Skip> {
        require(&["chromium", "sh"])?;
        let home = short_directory("browser-");
        let pipe = |name: &str| {
            let path = home.path().join(name);
            nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a pipe in /tmp");
            path
        };
        let (commands, answers) = (pipe("commands"), pipe("answers"));
        let mut command = Command::new("sh");
        // It reads commands from 3 and writes answers to 4. Debian's /usr/bin/chromium is a script that keeps both.
        command.args(["-c", "exec \"$@\" 3<\"$COMMANDS\" 4>\"$ANSWERS\"", "sh"]);
        command.arg(program("chromium").expect("required above"));
        command.args(["--headless=new", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu"]);
        // As root there is no sandbox, and containers of CI have little shared memory.
        command.args(["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking"]);
        command.arg(format!("--user-data-dir={}", home.path().join("profile").display())).arg("about:blank");
        command.env("COMMANDS", &commands).env("ANSWERS", &answers).env("HOME", home.path());
        let process = Proc::spawn_server(&command);
        // Both ends are opened, so that no side waits for the other.
        let open = |path: &Path| OpenOptions::new().read(true).write(true).open(path).expect("our pipe");
        let (to, from) = (open(&commands), open(&answers));
        let (send, receive) = channel();
        std::thread::spawn(move || {
            let mut from = BufReader::new(from);
            let mut message = Vec::new();
            while from.read_until(0, &mut message).is_ok_and(|count| count > 0) {
                message.pop();
                let Ok(value) = serde_json::from_slice(&message) else { return };
                if send.send(value).is_err() {
                    return;
                }
                message.clear();
            }
        });
        let mut browser = Browser {
            to,
            from: receive,
            session: None,
            requests: 0,
            events: Vec::new(),
            _process: process,
            _home: home,
        };
        let target = browser.ask("Target.createTarget", json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let session = browser.ask("Target.attachToTarget", attach)["sessionId"].clone();
        browser.session = session.as_str().map(str::to_owned);
        for domain in ["Page", "Network", "Runtime", "Log"] {
            browser.ask(&format!("{domain}.enable"), json!({}));
        }
        Ok(browser)
    }

    /// Loads a page completely.
    pub fn open(&mut self, url: &str) {
        self.ask("Page.navigate", json!({"url": url}));
        while !self.events.iter().any(|event| event["method"] == "Page.loadEventFired") {
            let event = self.next();
            self.events.push(event);
        }
        self.events.retain(|event| event["method"] != "Page.loadEventFired");
    }

    /// The value of an expression within the page.
    pub fn value(&mut self, expression: &str) -> Value {
        let answer = self.ask("Runtime.evaluate", json!({"expression": expression, "returnByValue": true}));
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// A real click of the mouse into the middle of the element.
    pub fn click(&mut self, selector: &str) {
        let script = format!(
            "(() => {{ const e = document.querySelector({selector:?}); e.scrollIntoView({{block: 'center'}}); \
             const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; }})()"
        );
        let place = self.value(&script);
        for kind in ["mousePressed", "mouseReleased"] {
            let event =
                json!({"type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1});
            self.ask("Input.dispatchMouseEvent", event);
        }
    }

    /// A key of the keyboard, by its name in the DOM: `Enter`, `Escape`, `Tab`.
    pub fn key(&mut self, key: &str) {
        let (code, text) = match key {
            "Enter" => (13, "\r"),
            "Escape" => (27, ""),
            _ => (9, ""),
        };
        let mut event = json!({"type": "keyDown", "key": key, "code": key, "windowsVirtualKeyCode": code});
        if !text.is_empty() {
            event["text"] = text.into();
        }
        self.ask("Input.dispatchKeyEvent", event.clone());
        event["type"] = "keyUp".into();
        self.ask("Input.dispatchKeyEvent", event);
    }

    /// Types into the focused element.
    pub fn insert(&mut self, text: &str) {
        self.ask("Input.insertText", json!({"text": text}));
    }

    /// Role and name of every element in the accessibility tree.
    pub fn spoken(&mut self) -> Vec<(String, String)> {
        let nodes = self.ask("Accessibility.getFullAXTree", json!({}))["nodes"].clone();
        let word = |value: &Value| value["value"].as_str().unwrap_or_default().to_owned();
        let nodes = nodes.as_array().expect("a list of nodes");
        let visible = nodes.iter().filter(|node| node["ignored"] == false);
        visible.map(|node| (word(&node["role"]), word(&node["name"]))).collect()
    }

    /// Sets the preferred color scheme, `light` or `dark`.
    pub fn prefer(&mut self, scheme: &str) {
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.ask("Emulation.setEmulatedMedia", features);
    }

    /// A screenshot of the page in a window of this size, as PNG.
    pub fn screenshot(&mut self, width: u32, height: u32) -> Vec<u8> {
        use base64::Engine as _;
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.ask("Emulation.setDeviceMetricsOverride", size);
        let data = self.ask("Page.captureScreenshot", json!({"format": "png"}))["data"].clone();
        let data = data.as_str().expect("a picture");
        base64::engine::general_purpose::STANDARD.decode(data).expect("base64")
    }

    /// Every URL that was requested since the start.
    pub fn requests(&mut self) -> Vec<String> {
        self.settle();
        let sent = self.events.iter().filter(|event| event["method"] == "Network.requestWillBeSent");
        sent.map(|event| event["params"]["request"]["url"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Errors and warnings on the console.
    pub fn complaints(&mut self) -> Vec<String> {
        self.settle();
        let loud = ["Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"];
        let told =
            self.events.iter().filter(|event| loud.contains(&event["method"].as_str().unwrap_or_default()));
        told.map(|event| event["params"].to_string()).collect()
    }

    /// Waits for earlier events: they arrive before the response to a later command.
    fn settle(&mut self) {
        std::thread::sleep(Duration::from_millis(200));
        self.value("0");
    }

    fn ask(&mut self, method: &str, params: Value) -> Value {
        self.requests += 1;
        let id = self.requests;
        let mut message = json!({"id": id, "method": method, "params": params});
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        self.to.write_all(format!("{message}\0").as_bytes()).expect("the browser listens");
        loop {
            let answer = self.next();
            if answer["id"] == id {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].clone();
            }
            self.events.push(answer);
        }
    }

    fn next(&mut self) -> Value {
        let process = &self._process;
        self.from
            .recv_timeout(PATIENCE)
            .unwrap_or_else(|_| panic!("chromium is silent: {}", process.stderr()))
    }
}
