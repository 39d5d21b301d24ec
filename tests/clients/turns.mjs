// Turns that a user of the anthropic JS SDK takes: `node turns.mjs NAME`, with PAGEGRID_MODULES naming node_modules and the
// SDK's own environment variables for the rest. What came of it is printed as one JSON object, an error with its own fields.

const { default: Anthropic } = await import(`file://${process.env.PAGEGRID_MODULES}/@anthropic-ai/sdk/index.mjs`);

const model = process.env.PAGEGRID_MODEL ?? 'claude-sonnet-5-5';
const messages = [{ role: 'user', content: 'say hi' }];
const sayHi = { model, max_tokens: 200, messages };
const tools = [
  {
    name: 'get_weather',
    description: 'The weather of a town.',
    input_schema: { type: 'object', properties: { town: { type: 'string' } }, required: ['town'] },
  },
];
const client = new Anthropic({ maxRetries: 1 });

const turns = {
  create: async () => client.messages.create(sayHi),

  stream: async () => {
    const texts = [];
    const stream = client.messages.stream({ ...sayHi, tools }).on('text', (text) => texts.push(text));
    return { message: await stream.finalMessage(), texts };
  },

  tool: async () => {
    const asking = await client.messages.create({ ...sayHi, tools });
    const call = asking.content.at(-1);
    const result = { type: 'tool_result', tool_use_id: call.id, content: 'rain' };
    const more = [{ role: 'assistant', content: asking.content }, { role: 'user', content: [result] }];
    return { call, answer: await client.messages.create({ ...sayHi, tools, messages: [...messages, ...more] }) };
  },

  models: async () => {
    const ids = [];
    for await (const each of client.models.list({ limit: 4 })) ids.push(each.id);
    return { ids, one: await client.models.retrieve(model) };
  },

  count: async () => client.messages.countTokens({ model, messages }),

  leave: async () => {
    for await (const event of await client.messages.create({ ...sayHi, stream: true })) {
      if (event.type === 'content_block_delta') break;
    }
    return {};
  },
};

try {
  console.log(JSON.stringify(await turns[process.argv[2]]()));
} catch (error) {
  const { name, status, message, requestID, type } = error;
  console.log(JSON.stringify({ error: { class: error.constructor.name, name, status, message, requestID, type } }));
}
