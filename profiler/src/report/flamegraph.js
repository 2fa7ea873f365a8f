"use strict";
// Beside inferno's script: a search goes to its first match and counts, `n` and `N` go on from there, and in a picture that
// is scrolled, the name of the frame under the pointer (or the count) is at the upper edge of the window.
(function () {
    var bar, barText, barBack, matches = [], at = -1, counted = "";

    function make(name, attributes) {
        var element = document.createElementNS("http://www.w3.org/2000/svg", name);
        for (var key in attributes) element.setAttribute(key, attributes[key]);
        return element;
    }

    function setUp() {
        var root = document.getElementsByTagName("svg")[0];
        bar = make("g", { id: "bar", "pointer-events": "none", display: "none" });
        barBack = make("rect", { x: 0, y: 0, width: "100%", height: 22, fill: "rgb(252,252,250)", stroke: "rgb(160,160,160)" });
        barText = make("text", { x: 10, y: 15 });
        barText.textContent = " ";
        bar.appendChild(barBack);
        bar.appendChild(barText);
        root.appendChild(bar);
    }

    // The line under the title has the same, as long as it is in sight.
    function show(text) {
        var line = document.getElementById("details");
        var hidden = line.getBoundingClientRect().bottom <= 0;
        barText.textContent = text || counted;
        bar.setAttribute("transform", "translate(0," + window.scrollY + ")");
        bar.setAttribute("display", hidden && barText.textContent ? "inline" : "none");
    }

    function goTo(index) {
        if (!matches.length) return;
        at = (index + matches.length) % matches.length;
        var box = matches[at].getBoundingClientRect();
        if (box.top < 30 || box.bottom > window.innerHeight)
            window.scrollTo(window.scrollX, window.scrollY + box.top - window.innerHeight / 3);
        counted = "match " + (at + 1) + " of " + matches.length + " (n: the next): " + g_to_text(find_group(matches[at]));
        details.nodeValue = counted;
        show("");
    }

    var searchAsBefore = search;
    search = function (term) {
        matches = [];
        counted = "";
        try {
            searchAsBefore(term);
        } catch (error) {
            if (!(error instanceof SyntaxError)) throw error;
            details.nodeValue = "not a regular expression: " + term;
            return;
        }
        var rects = frames.querySelectorAll("rect");
        for (var i = 0; i < rects.length; i++)
            if (rects[i].attributes.fill.value == searchcolor && rects[i].attributes["fg:orig_fill"]) matches.push(rects[i]);
        var y = function (rect) { return parseFloat(rect.attributes.y.value); };
        var x = function (rect) { return parseFloat(rect.attributes["fg:x"].value); };
        matches.sort(function (a, b) { return y(a) - y(b) || x(a) - x(b); });
        if (matches.length) {
            matchedtxt.firstChild.nodeValue += " in " + matches.length + (matches.length == 1 ? " frame" : " frames");
            goTo(0);
        } else {
            details.nodeValue = "no frame matches " + term;
        }
    };

    var resetAsBefore = reset_search;
    reset_search = function () {
        matches = [];
        counted = "";
        details.nodeValue = " ";
        resetAsBefore();
        show("");
    };

    window.addEventListener("mouseover", function (event) {
        var group = find_group(event.target);
        show(group ? g_to_text(group) : "");
    }, false);
    window.addEventListener("scroll", function () { show(barText.textContent); }, false);
    window.addEventListener("keydown", function (event) {
        if (event.ctrlKey || event.altKey || event.metaKey) return;
        if (event.key == "n") goTo(at + 1);
        if (event.key == "N") goTo(at - 1);
    }, false);
    setUp();
})();
