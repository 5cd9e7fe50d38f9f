//! The page of `--html` in a real browser: seen, filtered, opened with mouse and keyboard, and alone with itself.

use super::made::verify;
use super::reports::images;
use crate::tools::User;
use multiarch_tests::need;
use multiarch_tests::world::Browser;

/// Buttons of the matrix that are seen, by their words.
const SEEN: &str = "[...document.querySelectorAll('#matrix > tbody > tr:not([hidden]) button.cell')]\
                    .filter(e => e.checkVisibility()).map(e => e.dataset.verdict).sort().join(' ')";

#[test]
fn the_page_shows_filters_and_explains_without_any_network() {
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
        browser.value(SEEN),
        "consistent consistent foreign-payload mislabeled mislabeled mixed undetermined"
    );
    assert_eq!(browser.value("document.querySelectorAll('#matrix > tbody > tr').length"), 7);
    assert_eq!(
        browser.value(
            "[...document.querySelectorAll('#matrix > thead th[scope=col]')].map(e => e.textContent).join()"
        ),
        "Name,linux/amd64,linux/arm64"
    );
    assert_eq!(browser.value("document.querySelectorAll('#matrix > tbody > tr > th[scope=row]').length"), 7);
    assert!(
        browser
            .value("document.querySelector('.unread').textContent")
            .as_str()
            .unwrap()
            .starts_with("cannot ")
    );

    // A filter, by mouse.
    browser.click("input[value=consistent]");
    assert_eq!(browser.value(SEEN), "foreign-payload mislabeled mislabeled mixed undetermined");
    assert_eq!(browser.value("document.getElementById('status').textContent"), "5 of 7 images shown");
    browser.click("input[type=search]");
    browser.insert("index");
    assert_eq!(browser.value(SEEN), "mislabeled");
    // The view is in the address: another window shows the same.
    let view = browser.value("location.href").as_str().unwrap().to_string();
    browser.open("about:blank");
    browser.open(&view);
    assert_eq!(browser.value(SEEN), "mislabeled");

    // Evidence, by keyboard alone.
    let state = "(document.activeElement.getAttribute('aria-expanded') + ' ' + !!document.querySelector('tr.opened'))";
    browser.value(
        "document.querySelector('#matrix > tbody > tr:not([hidden]) button.cell:not([hidden])').focus()",
    );
    assert_eq!(browser.value(state), "false false");
    browser.key("Enter");
    assert_eq!(browser.value(state), "true true");
    let told = browser.value("document.querySelector('tr.opened').innerText");
    for words in [
        "/app (command, layer 1) is for linux/arm64",
        "config-patcher fix oci:",
        "--set-platform linux/arm64",
    ] {
        assert!(told.as_str().unwrap().contains(words), "{words} is not in {told}");
    }
    let spoken = browser.spoken();
    let is_told = |role: &str, name: &str| spoken.iter().any(|(r, n)| r == role && n.contains(name));
    assert!(is_told("columnheader", "linux/arm64") && is_told("rowheader", "v1"), "{spoken:?}");
    assert!(is_told("button", "mislabeled") && is_told("checkbox", "consistent"), "{spoken:?}");
    assert!(is_told("table", "Verdicts by name and platform"), "{spoken:?}");
    browser.key("Escape");
    assert_eq!(browser.value(state), "false false");

    // And by mouse; foreign text is text.
    browser.open("about:blank");
    browser.open(&format!("{url}#verdict=foreign-payload"));
    browser.click("#matrix > tbody > tr:not([hidden]) button.cell:not([hidden])");
    let told = browser.value("document.querySelector('tr.opened').innerText");
    assert!(told.as_str().unwrap().contains("/lib/<b>&\\u{202e}t.exe is for windows/amd64"), "{told}");
    assert_eq!(browser.value("document.querySelectorAll('b').length"), 0);

    let asked: Vec<String> =
        browser.requests().into_iter().filter(|asked| !asked.starts_with(&url)).collect();
    assert_eq!(asked, ["about:blank"; 0], "nothing but the page itself is asked for");
    assert_eq!(browser.complaints(), [""; 0]);
    // The policy holds: a script that got in somehow would not run, and could not load anything.
    browser.value("document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.hurt = 1'}))");
    browser.value(
        "document.body.append(Object.assign(document.createElement('img'), {src: 'http://127.0.0.1:9/x'}))",
    );
    assert_eq!(browser.value("typeof window.hurt"), "undefined");
    assert!(browser.complaints().iter().filter(|said| said.contains("Content Security Policy")).count() >= 2);
}

#[test]
fn the_page_is_whole_without_its_script() {
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
