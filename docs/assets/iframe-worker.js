// In pages that are opened from a folder, browsers refuse a Worker; this one runs its script in a hidden frame, so that the
// search works there, too.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.appendChild(this.frame);
      const page = this.frame.contentDocument;
      page.open();
      page.write(
        `<script>
          postMessage = (data) => parent.postMessage(data, "*");
          importScripts = (...urls) => urls.reduce((before, url) => before.then(() => new Promise((done, fail) => {
            const script = document.createElement("script");
            script.src = new URL(url, "${url}").href;
            script.onload = done;
            script.onerror = fail;
            document.body.appendChild(script);
          })), Promise.resolve());
        </script><body><script src="${url}"></script></body>`,
      );
      page.close();
      this.ready = new Promise((done) => this.frame.contentWindow.addEventListener("load", done));
      window.addEventListener("message", (event) => {
        if (event.source === this.frame.contentWindow) {
          const copy = new MessageEvent("message", { data: event.data });
          this.dispatchEvent(copy);
          this.onmessage?.(copy);
        }
      });
    }
    postMessage(data) {
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })));
    }
    terminate() {
      this.frame.remove();
    }
  };
}
