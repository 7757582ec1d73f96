// Makes the calls that standard input lists with OpenAI's npm client, and prints what became of each.
//
// node calls.mjs FOLDER-OF-NODE_MODULES BASE-URL < [{endpoint, body, leaveAfter?}, ...]
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const [folder, baseURL] = process.argv.slice(2);
const { OpenAI } = createRequire(join(folder, "package.json"))("openai");
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0, timeout: 60_000 });

async function outcome({ endpoint, body, leaveAfter }) {
  try {
    const answer = await (endpoint === "chat" ? client.chat.completions : client.completions).create(body);
    if (!body.stream) {
      const [choice] = answer.choices;
      return { text: choice.message?.content ?? choice.text, reason: choice.finish_reason, logprobs: choice.logprobs };
    }
    const pieces = [];
    let reason = null;
    for await (const chunk of answer) {
      const piece = chunk.choices[0]?.delta.content;
      if (piece) pieces.push(piece);
      reason = chunk.choices[0]?.finish_reason ?? reason;
      if (pieces.length === leaveAfter) break;
    }
    return { text: pieces.join(""), reason, pieces: pieces.length };
  } catch (error) {
    return { error: error.constructor.name, status: error.status ?? null, message: error.message };
  }
}

const outcomes = [];
for (const call of JSON.parse(readFileSync(0, "utf8"))) outcomes.push(await outcome(call));
console.log(JSON.stringify(outcomes));
