//! The page of `--html` in a real browser: matrix, filters, details with mouse and keyboard, and no network access.

use super::made::verify;
use super::reports::images;
use crate::tools::User;
use multiarch_tests::need;
use multiarch_tests::world::Browser;

/// Verdicts of the visible buttons of the matrix.
const VISIBLE_VERDICTS: &str = "[...document.querySelectorAll('#matrix > tbody > tr:not([hidden]) button.cell')]\
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
    browser.value(
        "document.querySelector('#matrix > tbody > tr:not([hidden]) button.cell:not([hidden])').focus()",
    );
    assert_eq!(browser.value(state), "false false");
    browser.key("Enter");
    assert_eq!(browser.value(state), "true true");
    let details = browser.value("document.querySelector('tr.opened').innerText");
    for words in [
        "/app (command, layer 1) is for linux/arm64",
        "config-patcher fix oci:",
        "--set-platform linux/arm64",
    ] {
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
    browser.click("#matrix > tbody > tr:not([hidden]) button.cell:not([hidden])");
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
