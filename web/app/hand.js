/** Shard files that a person hands over for a model that is stored in part. */

import { attempt } from "./actions.js";
import { client } from "./client.js";
import { button, el } from "./dom.js";
import { bytes } from "./format.js";
import { messageOf } from "./names.js";
import { showProblem, toast } from "./notices.js";

/** @import {StoredModel} from "./types.js" */

/** @param {StoredModel} model @param {File[]} files */
async function give({ id, title }, files) {
  const { complete, lacking, problems } = await client.call("give_files", { id }, null, files);
  const left = complete ? `All of ${title} is stored.` : `${bytes(lacking)} of it are missing.`;
  if (problems.length === 0) return toast(left);
  const told = problems.map(({ file, problem }) => `${file}: ${problem}.`);
  const text = messageOf([...told, `What is good is stored. ${left}`].join(" "));
  showProblem({ title: "Some files are not what they should be", text, actions: [] });
}

/** @type {StoredModel | null} whose files are being chosen */
let wanted = null;

// One for all rows, which are drawn anew while it is open.
const props = { type: "file", multiple: true, hidden: true, accept: ".bin,.json" };
const input = el("input", { ...props, "data-testid": "give-files" });
document.body.append(input);
input.addEventListener("change", () => {
  const files = [...(input.files ?? [])];
  const model = wanted;
  input.value = "";
  if (model && files.length > 0) attempt(() => give(model, files));
});

/** @param {StoredModel} model a button that opens the picker */
export function filesButton(model) {
  const choose = () => {
    wanted = model;
    input.click();
  };
  const label = `Files of ${model.title}`;
  const title = "Shards of it that you have on a disk: shard-00000.bin and so on";
  return button("Files…", choose, { "aria-label": label, title });
}
