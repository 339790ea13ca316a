//! A real browser, told what to do over Chromium's debugging pipe.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// A page in a browser of its own, without a window.
pub struct Browser {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    session: String,
    number: u64,
    /// What the page asked the network for, and what went wrong in it.
    pub requests: Vec<String>,
    pub complaints: Vec<String>,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Opens a file in a window of this many pixels.
    pub fn open(file: &Path, size: (u32, u32)) -> Self {
        let profile = tempfile::tempdir().unwrap();
        // The browser reads commands from handle 3, and answers on handle 4.
        let mut child = Command::new("sh")
            .arg("-c")
            .arg(
                "exec chromium --headless=new --no-sandbox --disable-gpu --no-first-run \
                 --disable-background-networking --disable-dev-shm-usage --remote-debugging-pipe \
                 --user-data-dir=\"$1\" about:blank 3<&0 4>&1 </dev/null >/dev/null 2>/dev/null",
            )
            .arg("sh")
            .arg(profile.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let commands = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let mut browser = Self {
            child,
            commands,
            answers,
            session: String::new(),
            number: 0,
            requests: Vec::new(),
            complaints: Vec::new(),
            _profile: profile,
        };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let session = browser.call("Target.attachToTarget", attach);
        browser.session = session["sessionId"].as_str().unwrap().to_string();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser.resize(size);
        let url = format!("file://{}", file.canonicalize().unwrap().display());
        browser.call("Page.navigate", json!({ "url": url }));
        browser.wait_for("document.readyState === 'complete'");
        browser
    }

    /// Gives the page this many pixels.
    pub fn resize(&mut self, (width, height): (u32, u32)) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.call("Emulation.setDeviceMetricsOverride", size);
    }

    /// What a command of the debugging protocol answers.
    #[track_caller]
    pub fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.number += 1;
        let mut command = json!({ "id": self.number, "method": method, "params": parameters });
        if !self.session.is_empty() {
            command["sessionId"] = json!(self.session);
        }
        self.commands.write_all(command.to_string().as_bytes()).unwrap();
        self.commands.write_all(&[0]).unwrap();
        loop {
            let mut message = Vec::new();
            self.answers.read_until(0, &mut message).unwrap();
            assert_eq!(message.pop(), Some(0), "chromium ended (Debian package chromium)");
            let message: Value = serde_json::from_slice(&message).unwrap();
            if message["id"] == json!(self.number) {
                assert_eq!(message["error"], Value::Null, "{method}");
                return message["result"].clone();
            }
            self.take_note(&message);
        }
    }

    fn take_note(&mut self, message: &Value) {
        let parameters = &message["params"];
        match message["method"].as_str() {
            Some("Network.requestWillBeSent") => {
                self.requests.push(parameters["request"]["url"].as_str().unwrap().to_string());
            }
            Some("Runtime.exceptionThrown") => self.complaints.push(parameters.to_string()),
            // Warnings are of how a test reads the page.
            Some("Log.entryAdded") if parameters["entry"]["level"] == "error" => {
                self.complaints.push(parameters["entry"].to_string());
            }
            Some("Runtime.consoleAPICalled") => self.complaints.push(parameters.to_string()),
            _ => {}
        }
    }

    /// The value of an expression in the page; a promise's when it is kept.
    #[track_caller]
    pub fn value(&mut self, expression: &str) -> Value {
        let parameters =
            json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let answer = self.call("Runtime.evaluate", parameters);
        assert_eq!(answer["exceptionDetails"], Value::Null, "{expression}");
        answer["result"]["value"].clone()
    }

    /// Waits until a condition holds in the page.
    #[track_caller]
    pub fn wait_for(&mut self, condition: &str) {
        let begun = std::time::Instant::now();
        while self.value(condition) != json!(true) {
            assert!(begun.elapsed().as_secs() < 30, "never: {condition}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// Waits until what was asked for is drawn.
    pub fn settle(&mut self) {
        let frames = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))";
        self.value(frames);
    }

    /// Does something with the mouse: `mousePressed`, `mouseReleased`, `mouseMoved` or `mouseWheel`.
    pub fn mouse(&mut self, kind: &str, (x, y): (f64, f64), wheel: f64) {
        let button = if kind == "mouseWheel" { "none" } else { "left" };
        let parameters = json!({
            "type": kind, "x": x, "y": y, "button": button, "clickCount": 1,
            "buttons": u8::from(kind != "mouseReleased" && kind != "mouseWheel"),
            "deltaX": 0, "deltaY": wheel,
        });
        self.call("Input.dispatchMouseEvent", parameters);
    }

    /// Clicks at a place of the window.
    pub fn click(&mut self, at: (f64, f64)) {
        self.mouse("mousePressed", at, 0.0);
        self.mouse("mouseReleased", at, 0.0);
        self.settle();
    }

    /// Presses a key by its name.
    pub fn press(&mut self, key: &str) {
        for kind in ["keyDown", "keyUp"] {
            let code = match key {
                "Tab" => 9,
                "Enter" => 13,
                "ArrowLeft" => 37,
                "ArrowUp" => 38,
                "ArrowRight" => 39,
                "ArrowDown" => 40,
                _ => 0,
            };
            let parameters = json!({ "type": kind, "key": key, "windowsVirtualKeyCode": code });
            self.call("Input.dispatchKeyEvent", parameters);
        }
        self.settle();
    }

    /// Where an element lies in the window after it was brought there: left, top, width and height.
    #[track_caller]
    pub fn place(&mut self, selector: &str) -> [f64; 4] {
        let expression = format!(
            "(() => {{ const one = document.querySelector({selector:?}); one.scrollIntoView({{ block: 'center' }}); \
             const box = one.getBoundingClientRect(); return [box.left, box.top, box.width, box.height]; }})()"
        );
        serde_json::from_value(self.value(&expression)).unwrap()
    }

    /// Keeps what the window shows as a PNG.
    pub fn keep_screenshot(&mut self, name: &str) {
        let answer = self.call("Page.captureScreenshot", json!({ "format": "png" }));
        let png = STANDARD.decode(answer["data"].as_str().unwrap()).unwrap();
        std::fs::write(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name), png).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It ends its own children, which a kill would leave.
        let end = json!({ "id": 0, "method": "Browser.close" }).to_string() + "\0";
        if self.commands.write_all(end.as_bytes()).is_err() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}
