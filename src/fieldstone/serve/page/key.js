// The API key: asked for when the server wants one, kept in this tab only.

import { $ } from "./dom.js";

const PLACE = "fieldstone-key";

let asking = null; // a promise, while the dialog is open

$("key-no").onclick = () => $("key").close();

export const kept = () => sessionStorage.getItem(PLACE);

// Whether a key was given; `refused`: there was one, and the server does not know it.
export function askForKey(refused) {
  asking ??= new Promise((done) => {
    const dialog = $("key");
    if (refused) $("key-why").textContent = "The server does not accept this key. See whether it was revoked.";
    $("key-field").value = "";
    dialog.returnValue = "";
    dialog.onclose = () => {
      asking = null;
      const key = $("key-field").value.trim();
      const given = dialog.returnValue === "given" && key !== "";
      if (given) sessionStorage.setItem(PLACE, key);
      done(given);
    };
    dialog.showModal();
    $("key-field").focus();
  });
  return asking;
}
