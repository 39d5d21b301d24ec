// Turns that a user of the openai JS SDK takes: `node turns_openai.mjs NAME`, with PAGEGRID_MODULES naming node_modules, PAGEGRID_MODEL
// the model, and the SDK's own environment variables for the rest. What came of it is printed as one JSON object, an error with its
// own fields.

const { default: OpenAI } = await import(`file://${process.env.PAGEGRID_MODULES}/openai/index.mjs`);

const model = process.env.PAGEGRID_MODEL;
const messages = [{ role: 'system', content: 'Be brief.' }, { role: 'user', content: 'say hi' }];
const sayHi = { model, messages };
const parameters = { type: 'object', properties: { town: { type: 'string' } }, required: ['town'] };
const tools = [{ type: 'function', function: { name: 'get_weather', description: 'The weather of a town.', parameters } }];
const client = new OpenAI({ maxRetries: 1 });

const turns = {
  create: async () => client.chat.completions.create(sayHi),

  stream: async () => {
    const texts = [];
    const stream = client.chat.completions
      .stream({ ...sayHi, tools, stream_options: { include_usage: true } })
      .on('content', (text) => texts.push(text));
    return { completion: await stream.finalChatCompletion(), texts };
  },

  tool: async () => {
    const asked = [];
    const run = (given) => (asked.push(given), 'rain');
    const weather = { type: 'function', function: { ...tools[0].function, parse: JSON.parse, function: run } };
    const runner = client.chat.completions.runTools({ ...sayHi, tools: [weather], stream: true });
    return { answer: await runner.finalContent(), asked };
  },

  models: async () => {
    const ids = [];
    for await (const each of client.models.list()) ids.push(each.id);
    return { ids, one: await client.models.retrieve(model) };
  },

  leave: async () => {
    for await (const chunk of await client.chat.completions.create({ ...sayHi, stream: true })) {
      if (chunk.choices[0].delta.content) break;
    }
    return {};
  },
};

try {
  console.log(JSON.stringify(await turns[process.argv[2]]()));
} catch (error) {
  const { name, status, message, requestID, type, code } = error;
  console.log(JSON.stringify({ error: { class: error.constructor.name, name, status, message, requestID, type, code } }));
}
