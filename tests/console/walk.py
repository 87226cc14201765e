"""An officer in a real browser, with the keyboard alone: from a request to its certificate, past every page of the console.

What is to be walked stands as JSON on standard input; pictures of every page go into the folder that is named there. Every page
is held to WCAG 2.2 AA by axe-core, light and dark, and to a window of 320 pixels; and it is walked once more without JavaScript.
The first thing that is wrong ends it, with a sentence. The last line that is printed says as JSON which addresses were looked at,
sent to and fetched from: who called compares them with the console's own table.
"""

import base64
import hashlib
import hmac
import json
import re
import sys
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import axe_playwright_python
from playwright.sync_api import Page, sync_playwright

AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
RULES = {
    "runOnly": {
        "type": "tag",
        "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    },
    "rules": {"target-size": {"enabled": True}},
}
WIDE, NARROW = {"width": 1100, "height": 800}, {"width": 320, "height": 640}
# What was asked for and what was said, of the page that is looked at.
FOREIGN = []


def fail(sentence):
    sys.exit(f"walk.py: {sentence}")


def check(condition, sentence):
    if not condition:
        fail(sentence)


def code(authenticator):
    """What an authenticator app shows at this moment (RFC 6238), of the link that the officer was handed."""
    secret = parse_qs(urlsplit(authenticator).query)["secret"][0]
    key = base64.b32decode(secret + "=" * (-len(secret) % 8))
    digest = hmac.digest(key, (int(time.time()) // 30).to_bytes(8, "big"), hashlib.sha1)
    start = digest[-1] & 15
    return f"{(int.from_bytes(digest[start:start + 4], 'big') & 0x7FFFFFFF) % 1_000_000:06}"


class Walk:
    def __init__(self, page: Page, task):
        self.page, self.task, self.base = page, task, task["base"]
        self.pictures = Path(task["pictures"])
        self.pictures.mkdir(parents=True, exist_ok=True)
        self.seen, self.looked, self.sent, self.fetched = set(), set(), set(), set()

    # The keyboard, and nothing else.

    def focused(self, selector):
        return self.page.evaluate("s => document.activeElement !== null && document.activeElement.matches(s)", selector)

    def tab_to(self, selector):
        """From where the focus is to the first place further on that fits; each place on the way shows that it is there."""
        for _ in range(120):
            self.page.keyboard.press("Tab")
            outline = self.page.evaluate(
                "() => { const s = getComputedStyle(document.activeElement); return [s.outlineStyle, parseFloat(s.outlineWidth)] }"
            )
            if self.page.evaluate("document.activeElement !== document.body"):
                check(outline[0] != "none" and outline[1] >= 2, f"the focus cannot be seen: {self.where()}")
            if self.focused(selector):
                return
        fail(f"Tab never comes to {selector} on {self.page.url}")

    def where(self):
        return self.page.evaluate("document.activeElement.outerHTML.slice(0, 200)")

    def type_into(self, selector, text):
        self.tab_to(selector)
        self.page.keyboard.type(text)

    def enter(self, selector):
        """Tab to a link or a button, and Enter."""
        self.tab_to(selector)
        self.note_form()
        with self.page.expect_navigation():
            self.page.keyboard.press("Enter")

    def note_form(self):
        """Where the button with the focus sends its form, if it does."""
        action = self.page.evaluate(
            "() => { const form = document.activeElement.form; return form && form.getAttribute('method') === 'post' ? form.getAttribute('action') : null }"
        )
        if action:
            self.sent.add(urlsplit(action).path)

    def choose(self, selector, beginning):
        """Tab to a list, and down to the entry that begins so."""
        self.tab_to(selector)
        for _ in range(60):
            if self.page.evaluate("document.activeElement.selectedOptions[0].text").startswith(beginning):
                return
            self.page.keyboard.press("ArrowDown")
        fail(f"{selector} holds no {beginning!r}")

    def download(self, selector):
        self.tab_to(selector)
        self.note_form()
        link = self.page.evaluate("document.activeElement.getAttribute('href')")
        if link:
            self.fetched.add(urlsplit(link).path)
        with self.page.expect_download() as download:
            self.page.keyboard.press("Enter")
        return Path(download.value.path()).read_bytes()

    # What holds on every page.

    def look(self, name, status=200):
        """Axe finds nothing, nothing of a face is there, nothing comes from elsewhere, and it fits a narrow window."""
        check(not FOREIGN, f"{name}: {FOREIGN}")
        self.seen.add(name)
        self.looked.add(urlsplit(self.page.url).path)
        self.page.evaluate(AXE)
        for scheme in ("light", "dark"):
            self.page.emulate_media(color_scheme=scheme)
            found = self.page.evaluate("rules => axe.run(document, rules)", RULES)
            check(len(found["passes"]) > 5, f"{name}: axe did not run")
            for violation in found["violations"]:
                nodes = "\n  ".join(node["html"] + "\n    " + node["failureSummary"] for node in violation["nodes"][:5])
                fail(f"{name}, {scheme}: {violation['id']}: {violation['help']}\n  {nodes}")
            self.page.screenshot(path=self.pictures / f"{name}-{scheme}.png", full_page=True)
        self.page.emulate_media(color_scheme="light")
        self.page.set_viewport_size(NARROW)
        wide = self.page.evaluate("document.documentElement.scrollWidth")
        self.page.screenshot(path=self.pictures / f"{name}-narrow.png", full_page=True)
        self.page.set_viewport_size(WIDE)
        check(wide <= NARROW["width"], f"{name}: {wide} pixels wide in a window of {NARROW['width']}")
        self.nothing_of_a_face(name)

    def nothing_of_a_face(self, name):
        pictures = self.page.locator("img, canvas, video, picture, object, embed, iframe").count()
        check(pictures == 0, f"{name}: there is a picture")
        html = self.page.content()
        check("data:image" not in html, f"{name}: there is a picture in the text")
        numbers = re.search(r"(?:-?\d*\.\d+[\s,;]+){4}", self.page.inner_text("body"))
        check(numbers is None, f"{name}: that looks like a vector: {numbers and numbers.group()}")
        check("score" not in html.lower() and "similarity" not in html.lower(), f"{name}: that looks like a score")

    def text(self):
        return self.page.inner_text("main")

    def says(self, words):
        check(words in self.text(), f"{self.page.url} does not say {words!r}:\n{self.text()}")

    # The way.

    def sign_in(self):
        task, page = self.task, self.page
        page.goto(f"{self.base}/console")
        check(page.url.endswith("/console/sign-in"), f"a stranger is at {page.url}")
        self.look("sign-in")
        page.reload()
        self.type_into("#name", task["name"])
        self.type_into("#password", "not the password")
        self.type_into("#code", "000000")
        self.enter("button")
        self.look("sign-in-refused")
        page.goto(f"{self.base}/console/sign-in")
        self.type_into("#name", task["name"])
        self.type_into("#password", task["password"])
        self.type_into("#code", code(task["authenticator"]))
        self.enter("main button")
        if page.url.endswith("/console/password"):
            self.look("password")
            page.goto(f"{self.base}/console/password")
            self.type_into("#present", task["password"])
            self.type_into("#new", task["new_password"])
            self.type_into("#again", task["new_password"])
            self.enter("main button")
        check(page.url.rstrip("/").endswith("/console"), f"signed in, and at {page.url}")
        self.look("overview")

    def find_the_person(self):
        self.page.goto(f"{self.base}/console")
        self.page.keyboard.press("Tab")
        check(self.focused(".skip"), f"the first place of a page is {self.where()}")
        self.enter("nav a[href='/console/subjects']")
        self.look("persons")
        self.page.goto(f"{self.base}/console/subjects")
        self.type_into("#who", "nobody of this name")
        self.enter("main button")
        self.says("Nobody is registered")
        self.look("persons-none")
        self.page.goto(f"{self.base}/console/subjects")
        self.type_into("#who", self.task["reference"])
        self.enter("main button")
        self.says(self.task["reference"])
        self.says("granted")
        self.look("person")
        receipt = self.download("a[href$='/receipt']")
        check(receipt.count(b".") == 2, "the receipt is no JWS")

    def ask(self):
        page = self.page
        page.reload()
        self.enter("a[href^='/console/requests/new']")
        self.look("request-new")
        page.reload()
        check(page.input_value("#who").startswith("sub_"), "the person is not filled in")
        self.choose("#law", "GDPR")
        self.enter("main button")
        self.says("received, to be verified")
        self.says("GDPR")
        self.look("request-received")
        request = page.url
        offered = page.locator(".actions a[href^='/console/requests/ers_']").evaluate_all("links => links.map(link => link.pathname)")
        check(len(offered) == 4, f"a request that was received offers {offered}")
        # The others are looked at where they are taken.
        for step in ("reject", "cancel"):
            page.goto(request)
            self.enter(f"a[href$='/{step}']")
            self.look(f"step-{step}")
            page.goto(page.url)
            self.enter("main form a[href^='/console/requests/ers_']")
            self.says("received, to be verified")
        return request

    def hold_and_release(self, request):
        page = self.page
        page.goto(request)
        self.enter("a[href$='/hold']")
        self.look("step-hold")
        page.reload()
        self.type_into("#reason", "tax record, until 2031")
        self.enter("main button")
        self.says("on hold")
        self.says("tax record, until 2031")
        self.look("request-held")
        page.goto(request)
        self.enter("a[href$='/release']")
        self.look("step-release")
        page.reload()
        self.enter("main button")
        self.says("received, to be verified")

    def erase(self, request):
        page = self.page
        page.goto(request)
        self.enter("a[href$='/verify']")
        self.says("no way back")
        self.look("step-verify")
        page.reload()
        self.enter("main button")
        for _ in range(100):
            if "Completed and certified" in self.text():
                break
            page.wait_for_timeout(100)
            page.goto(request)
        self.says("Completed and certified")
        self.says("Its signature was checked just now")
        check(self.task["reference"] not in self.text(), "the erased person's reference is still there")
        self.look("request-completed")
        page.goto(request)
        certificate = self.download("a[href$='/certificate']")
        (self.pictures / "certificate.jws").write_bytes(certificate)
        page.goto(f"{self.base}/console/subjects/{self.task['subject']}")
        self.says("Nobody any more")
        self.look("person-erased")

    def other_pages(self):
        page, base = self.page, self.base
        page.goto(f"{base}/console")
        self.enter("nav a[href='/console/requests']")
        self.says("1 open, 1 overdue")
        self.says("overdue by")
        self.look("requests")
        page.goto(f"{base}/console/requests")
        self.choose("#state", "completed")
        self.enter("main form button")
        self.says("completed")
        page.goto(f"{base}/console/subjects/{self.task['other']}")
        self.enter("a[href$='/restriction']")
        self.look("restrict")
        page.reload()
        self.choose("#ground", "the person has objected")
        self.enter("main button")
        self.says("processing restricted")
        self.look("person-restricted")
        page.goto(f"{base}/console/subjects/{self.task['other']}")
        self.enter("a[href$='/restriction']")
        self.enter("main button")
        self.says("Restrict processing…")
        self.enter("a[href$='/withdraw']")
        self.look("withdraw")
        page.reload()
        self.choose("#method", "in person")
        self.enter("main button")
        self.says("withdrawn")
        self.access()
        page.goto(base + "/console")
        self.enter("nav a[href='/console/audit']")
        self.look("audit")
        page.reload()
        self.enter("form[action='/console/audit/check'] button")
        self.says("Whole:")
        self.look("audit-checked")
        page.goto(base + "/console/audit")
        log = self.download("a[href='/console/audit/export']")
        check(log.startswith(b'{"format":"velum-audit-1"'), "the export is no log")
        page.goto(base + "/console/audit")
        self.type_into("#subject", self.task["subject"])
        self.enter("form.filter button")
        self.says("erasure.completed")
        page.goto(base + "/console/audit?from=yesterday")
        self.says("could not be read")
        self.look("audit-mistaken")
        for name in ("retention", "usage", "keys"):
            page.goto(base + "/console")
            self.enter(f"nav a[href='/console/{name}']")
            self.look(name)
        page.goto(base + "/console/requests/ers_00000000000070008000000000000000")
        self.look("not-found")

    def access(self):
        """Somebody asks what is known of them, and is given a package; then it is destroyed."""
        page, base = self.page, self.base
        page.goto(base + "/console")
        self.enter("nav a[href='/console/access']")
        self.look("access-none")
        page.goto(f"{base}/console/subjects/{self.task['other']}")
        self.enter("a[href^='/console/access/new']")
        self.look("access-new")
        page.reload()
        self.enter("main button")
        self.says("received, to be answered")
        self.look("access-received")
        request = page.url
        page.reload()
        self.type_into("#recipient", "not a key")
        self.enter("form[action$='/answer'] button")
        self.says("no public key")
        page.goto(request)
        self.enter("form[action$='/answer'] button")
        self.says("shown once")
        self.says("Passphrase")
        self.look("access-handover")
        page.goto(request)
        self.says("answered, package there")
        self.look("access-answered")
        page.goto(request)
        package = self.download("form[action$='/package'] button")
        check(package.startswith(b"age-encryption.org/v1"), "the package is no age file")
        page.goto(request)
        self.enter("form[action$='/cancel'] button")
        self.says("cancelled")
        page.goto(f"{base}/console/access/new?subject={self.task['other']}")
        self.enter("main button")
        self.says("received, to be answered")
        self.type_into("#reason", "not the person who asked")
        self.enter("form[action$='/reject'] button")
        self.says("rejected")
        self.look("access-rejected")
        page.goto(base + "/console/access")
        self.look("access")

    def rejected(self):
        """What was rejected without a script, with one."""
        page = self.page
        page.goto(self.base + "/console/requests?state=rejected")
        self.look("requests-rejected")
        page.goto(self.base + "/console/requests?state=rejected")
        self.enter("tbody th a")
        self.says("not the person who asked")
        self.look("request-rejected")

    def sign_out(self):
        self.page.goto(self.base + "/console")
        self.enter("form[action='/console/sign-out'] button")
        self.page.goto(self.base + "/console/requests")
        check(self.page.url.endswith("/console/sign-in"), "signed out, and let in all the same")


def without_script(browser, task, state):
    """The same console for a browser that runs no script: every page, and a request from its opening to its end."""
    context = browser.new_context(ignore_https_errors=True, java_script_enabled=False, storage_state=state)
    page, base = context.new_page(), task["base"]
    plain = ("", "/requests", "/requests/new", "/access", "/access/new", "/subjects", "/audit", "/retention", "/usage", "/keys", "/password")
    for path in plain:
        answer = page.goto(base + "/console" + path)
        check(answer.status == 200 and page.locator("h1").count() == 1, f"without script: {path} is {answer.status}")

    def press(selector):
        with page.expect_navigation():
            page.locator(selector).last.click()

    page.goto(base + "/console/subjects")
    page.locator("#who").fill(task["other_reference"])
    press("main button")
    check(page.locator("h1").inner_text() == task["other_reference"], "without script nobody is found")
    page.goto(base + "/console/requests")
    page.locator("tbody th a").first.click()
    page.locator("a[href$='/reject']").click()
    page.locator("#reason").fill("not the person who asked")
    press("main button")
    check("rejected" in page.locator(".lead").inner_text(), "without script nothing is rejected")
    page.goto(f"{base}/console/access/new?subject={task['other']}")
    press("main button")
    check("received" in page.locator(".lead").inner_text(), "without script nobody asks what is known of them")
    press("form[action$='/answer'] button")
    check("Passphrase" in page.inner_text("main"), "without script no package is put together")
    press("main a[href^='/console/access/']")
    press("form[action$='/cancel'] button")
    check("cancelled" in page.locator(".lead").inner_text(), "without script no package is destroyed")
    page.goto(base + "/console/audit")
    press("form[action='/console/audit/check'] button")
    check("Whole:" in page.inner_text("main"), "without script the audit log is not checked")
    context.close()


def main():
    task = json.load(sys.stdin)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        context = browser.new_context(
            ignore_https_errors=True, viewport=WIDE, locale="en-GB", timezone_id="UTC", reduced_motion="reduce"
        )
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("request", lambda request: request.url.startswith(task["base"]) or request.url.startswith("data:,") or FOREIGN.append(request.url))
        page.on("pageerror", lambda error: FOREIGN.append(str(error)))
        page.on("console", lambda said: said.type == "error" and "status of" not in said.text and FOREIGN.append(said.text))
        walk = Walk(page, task)
        walk.sign_in()
        walk.find_the_person()
        request = walk.ask()
        walk.hold_and_release(request)
        walk.erase(request)
        walk.other_pages()
        without_script(browser, task, context.storage_state())
        walk.rejected()
        walk.sign_out()
        print(f"{len(walk.seen)} pages, each light, dark and narrow: {' '.join(sorted(walk.seen))}")
        told = {"looked": walk.looked, "sent": walk.sent, "fetched": walk.fetched}
        print(json.dumps({what: sorted(paths) for what, paths in told.items()}))
        browser.close()


main()
