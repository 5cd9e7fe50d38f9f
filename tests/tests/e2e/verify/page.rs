//! The page of `--html` in a real browser: matrix, filters, details with mouse and keyboard, wide and narrow windows, and no
//! network access.

use super::made::{Layer, image, probe, put, verify};
use super::reports::images;
use crate::tools::User;
use image_model::manifest::{Document, media_type};
use image_store::store::ImageStore;
use image_store::store::memory::MemoryStore;
use image_store::store::oci_layout::OciLayout;
use multiarch_tests::need;
use multiarch_tests::world::Browser;

/// Verdicts of the visible buttons of the matrix.
const VISIBLE_VERDICTS: &str = "[...document.querySelectorAll('#matrix tr.image:not([hidden]) button.cell')]\
                    .filter(e => e.checkVisibility()).map(e => e.dataset.verdict).sort().join(' ')";

#[test]
fn the_page_filters_and_explains_verdicts_without_network_access() {
    let mut browser = need!(Browser::start());
    let user = User::new();
    let names = images(&user);
    let mut arguments: Vec<&str> = names.iter().map(String::as_str).collect();
    arguments.extend(["--html", "page.html"]);
    verify(&user, &arguments).exits(5);
    let url = format!("file://{}", user.path("page.html").display());
    browser.open(&url);

    // The matrix.
    assert_eq!(
        browser.value(VISIBLE_VERDICTS),
        "consistent consistent foreign-payload mislabeled mislabeled mixed undetermined"
    );
    assert_eq!(browser.value("document.querySelectorAll('#matrix tr.image').length"), 7);
    assert_eq!(
        browser.value(
            "[...document.querySelectorAll('#matrix > thead th[scope=col]')].map(e => e.textContent).join()"
        ),
        "Name,linux/amd64,linux/arm64"
    );
    assert_eq!(browser.value("document.querySelectorAll('#matrix tr.image > th[scope=row]').length"), 7);
    assert!(
        browser
            .value("document.querySelector('.unread').textContent")
            .as_str()
            .unwrap()
            .starts_with("cannot ")
    );

    // A filter, with the mouse.
    browser.click("input[value=consistent]");
    assert_eq!(browser.value(VISIBLE_VERDICTS), "foreign-payload mislabeled mislabeled mixed undetermined");
    assert_eq!(browser.value("document.getElementById('status').textContent"), "5 of 7 images shown");
    browser.click("input[type=search]");
    browser.insert("index");
    assert_eq!(browser.value(VISIBLE_VERDICTS), "mislabeled");
    // The filter is in the URL: another window shows the same view.
    let view = browser.value("location.href").as_str().unwrap().to_string();
    browser.open("about:blank");
    browser.open(&view);
    assert_eq!(browser.value(VISIBLE_VERDICTS), "mislabeled");

    // The evidence, with the keyboard only.
    let state = "(document.activeElement.getAttribute('aria-expanded') + ' ' + !!document.querySelector('tr.opened'))";
    browser
        .value("document.querySelector('#matrix tr.image:not([hidden]) button.cell:not([hidden])').focus()");
    assert_eq!(browser.value(state), "false false");
    browser.key("Enter");
    assert_eq!(browser.value(state), "true true");
    let details = browser.value("document.querySelector('tr.opened').innerText");
    for words in ["/app (command, layer 1) is for linux/arm64", "config-patcher fix oci:", "--from-index"] {
        assert!(details.as_str().unwrap().contains(words), "{words} is not in {details}");
    }
    let spoken = browser.spoken();
    let is_announced = |role: &str, name: &str| spoken.iter().any(|(r, n)| r == role && n.contains(name));
    assert!(is_announced("columnheader", "linux/arm64") && is_announced("rowheader", "v1"), "{spoken:?}");
    assert!(is_announced("button", "mislabeled") && is_announced("checkbox", "consistent"), "{spoken:?}");
    assert!(is_announced("table", "Verdicts by name and platform"), "{spoken:?}");
    browser.key("Escape");
    assert_eq!(browser.value(state), "false false");

    // The same with the mouse; markup in names is escaped.
    browser.open("about:blank");
    browser.open(&format!("{url}#verdict=foreign-payload"));
    browser.click("#matrix tr.image:not([hidden]) button.cell:not([hidden])");
    let details = browser.value("document.querySelector('tr.opened').innerText");
    assert!(details.as_str().unwrap().contains("/lib/<b>&\\u{202e}t.exe is for windows/amd64"), "{details}");
    assert_eq!(browser.value("document.querySelectorAll('b').length"), 0);

    let requests: Vec<String> =
        browser.requests().into_iter().filter(|requests| !requests.starts_with(&url)).collect();
    assert_eq!(requests, ["about:blank"; 0], "the page requests other resources");
    assert_eq!(browser.complaints(), [""; 0]);
    // The Content Security Policy blocks injected scripts and images.
    browser.value("document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.hurt = 1'}))");
    browser.value(
        "document.body.append(Object.assign(document.createElement('img'), {src: 'http://127.0.0.1:9/x'}))",
    );
    assert_eq!(browser.value("typeof window.hurt"), "undefined");
    assert!(
        browser.complaints().iter().filter(|message| message.contains("Content Security Policy")).count()
            >= 2
    );
}

#[test]
fn the_page_is_complete_without_scripts() {
    let user = User::new();
    let name = images(&user).swap_remove(1);
    verify(&user, &[&name, "--html", "page.html"]).exits(1);
    let page = std::fs::read_to_string(user.path("page.html")).unwrap();
    let body = &page[page.find("<body>").unwrap()..page.find("<script>").unwrap()];
    assert!(body.contains("href=\"#e0\"") && body.contains("id=\"e0\""), "{body}");
    assert!(
        body.contains("/app (command, layer 0) is for linux/amd64") && !body.contains("hidden>\n<section"),
        "{body}"
    );
}

/// Writes an index as tag of a layout, from platforms and the platform of their `/app`, which may be several.
fn add_index(user: &User, layout: &str, tag: &str, members: &[(&str, &[&str])]) {
    let store = MemoryStore::new();
    let entries: Vec<serde_json::Value> = members
        .iter()
        .map(|(platform, binaries)| {
            let files = ["app", "bin/sh"].into_iter().zip(*binaries);
            let layer = files.fold(Layer::new(), |layer, (name, on)| layer.file(name, &probe(on)));
            let document = image(platform, &["/app"], vec![layer.end()]).add_to(&store);
            let platform: image_model::platform::Platform = platform.parse().unwrap();
            serde_json::json!({"mediaType": document.media_type(), "digest": document.digest(),
                "size": document.bytes().len(), "platform": platform})
        })
        .collect();
    let index =
        serde_json::json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": entries});
    let document = Document::new(index.to_string().into_bytes(), None).unwrap();
    store.write_tag("x", &document).unwrap();
    put(store, &OciLayout::open_or_create(&user.path(layout)).unwrap(), tag);
}

#[test]
fn every_problem_is_visible_in_wide_and_narrow_windows() {
    let mut browser = need!(Browser::start());
    let user = User::new();
    let (amd64, arm64): (&[&str], &[&str]) = (&["linux/amd64"], &["linux/arm64"]);
    add_index(&user, "app", "main", &[("linux/amd64", amd64), ("linux/arm64/v8", arm64)]);
    add_index(&user, "app", "v1", &[("linux/amd64", amd64), ("linux/arm64", amd64)]);
    add_index(
        &user,
        "app",
        "v2",
        &[("linux/amd64", amd64), ("linux/arm64", &["linux/arm64", "linux/s390x"])],
    );
    add_index(&user, "app", "v3", &[("linux/amd64", amd64), ("linux/s390x", &["linux/s390x"])]);
    add_index(&user, "base", "v1", &[("linux/amd64", amd64)]);
    let (app, base) =
        (format!("oci:{}", user.path("app").display()), format!("oci:{}", user.path("base").display()));
    let arguments = ["--all-tags", &base, "--all-tags", &app, "--html", "page.html"];
    verify(&user, &arguments).exits(1);
    browser.open(&format!("file://{}", user.path("page.html").display()));

    // What it is about.
    let title = browser.value("document.title");
    let title = title.as_str().unwrap();
    let about = format!("Platform check: {app} and {base}, 2 of 9 images need attention, 20");
    assert!(title.starts_with(&about), "{title}");
    let version = env!("CARGO_PKG_VERSION");
    let command = format!(
        "Z, config-patcher {version}, config-patcher verify --all-tags {base} --all-tags {app} --html page.html"
    );
    assert!(title.ends_with(&command), "{title}");

    // Problems first, the worst verdict beside each name.
    let rows = "[...document.querySelectorAll('#matrix th[scope=row], #matrix th[scope=rowgroup]')].map(e => e.innerText.replace(/\\s+/g, ' ')).join('\\n')";
    let rows_now = browser.value(rows);
    let rows_wanted = [
        &format!("{app} 2 of 8 images need attention"),
        "v1 ⇄ wrong build",
        "v2 ⚠ mixed",
        "main ✓ consistent",
        "v3 ✓ consistent",
        &format!("{base} the image needs no attention"),
        "v1 ✓ consistent",
    ];
    assert_eq!(rows_now.as_str().unwrap().split('\n').collect::<Vec<_>>(), rows_wanted);
    let headings = "[...document.querySelectorAll('#matrix thead th')].map(e => e.textContent).join()";
    assert_eq!(browser.value(headings), "Name,linux/amd64,linux/arm64,linux/s390x");
    let mixed = browser.value("document.querySelector('.cell.mixed').innerText");
    assert!(mixed.as_str().unwrap().contains("binaries linux/arm64 + linux/s390x"), "{mixed}");

    for (width, height) in [(1280, 900), (390, 1600)] {
        for scheme in ["light", "dark"] {
            browser.prefer(scheme);
            let picture = browser.screenshot(width, height);
            if let Some(directory) = std::env::var_os("MULTIARCH_SCREENSHOTS") {
                let name = format!("page-{width}-{scheme}.png");
                std::fs::write(std::path::Path::new(&directory).join(name), picture).unwrap();
            }
            let overflow =
                browser.value("document.documentElement.scrollWidth - document.documentElement.clientWidth");
            assert_eq!(overflow, 0, "{width} {scheme}: the page scrolls sideways");
            // Every failing verdict, and the platform that it is for, lies within the window.
            let hidden = browser.value(
                "[...document.querySelectorAll('.cell.wrong-build, .cell.mixed')].filter(e => { const r = e.getBoundingClientRect(); \
                 return r.width === 0 || r.left < 0 || r.right > innerWidth || !e.checkVisibility(); }).length",
            );
            assert_eq!(hidden, 0, "{width} {scheme}: verdicts are outside the window");
            let label = browser.value(
                "getComputedStyle(document.querySelector('.cell.mixed').parentElement, '::before').content",
            );
            assert_eq!(label, if width < 600 { "\"linux/arm64\"" } else { "none" });
            // Contrast of text on its ground, WCAG 2.2, 1.4.3.
            let poor = browser.value(CONTRAST);
            assert_eq!(poor, serde_json::json!([]), "{width} {scheme}");
        }
    }
    // The evidence fits as well, and a command is copied by its button.
    browser.click("button.cell.wrong-build");
    assert_eq!(
        browser.value("document.documentElement.scrollWidth - document.documentElement.clientWidth"),
        0
    );
    // Nothing in it is squeezed into a column of letters.
    let squeezed = "[...document.querySelectorAll('tr.opened caption, tr.opened p, tr.opened td')]\
                    .filter(e => e.textContent.length > 20 && e.getBoundingClientRect().width < 120).length";
    assert_eq!(browser.value(squeezed), 0);
    let shown = browser.value("document.querySelector('tr.opened .command code').textContent");
    assert_eq!(shown, format!("manifest-push edit {app}:v1 --remove linux/arm64"));
    browser.click("tr.opened .command .copy");
    assert_eq!(browser.value("document.querySelector('tr.opened .command .copy').textContent"), "Copied");
    assert_eq!(browser.value("getSelection().toString()"), shown);
    assert_eq!(browser.complaints(), [""; 0]);
}

/// Elements whose text has a contrast of less than 4.5 to its ground.
const CONTRAST: &str = r"(() => {
  const rgb = (text) => text.match(/[\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255).map((c) => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
  const ground = (e) => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
  const poor = [];
  for (const e of document.querySelectorAll('h1, .lead, .run, code, .tile .words, th, .worst, .cell, .more, dt, dd, .of')) {
    if (!e.checkVisibility()) continue;
    const [a, b] = [light(rgb(getComputedStyle(e).color)), light(ground(e))];
    if ((Math.max(a, b) + .05) / (Math.min(a, b) + .05) < 4.5) poor.push(e.className || e.tagName);
  }
  return poor;
})()";
