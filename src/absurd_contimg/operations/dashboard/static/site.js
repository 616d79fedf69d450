// What the reader has opened or typed stays when the page is refreshed.
(function () {
  "use strict";
  var callbacks = Idiomorph.defaults.callbacks;
  callbacks.beforeAttributeUpdated = function (name, node) {
    return !(name === "open" && node.nodeName === "DETAILS");
  };
  callbacks.beforeNodeMorphed = function (node) {
    return !(node.nodeType === 1 && node.hasAttribute("data-keep"));
  };
  document.addEventListener("htmx:sseOpen", function () { show("live"); });
  document.addEventListener("htmx:sseError", function () { show("not live: the server does not answer"); });
  function show(text) {
    var place = document.getElementById("live");
    if (place) { place.textContent = text; }
  }
})();
