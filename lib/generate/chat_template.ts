import { Template } from '@huggingface/jinja'
import { OpenMoeError } from '../errors.ts'

export interface ChatMessage {
  role: 'system' | 'user' | 'assistant'
  content: string
}

/** The prompt of the released chat model (spec section 7): LLaMA-like, but the system block stands before `<s>`. */
const OPENMOE_TEMPLATE = `
{%- if messages[0].role == 'system' -%}
  {%- set system = messages[0].content -%}
  {%- set turns = messages[1:] -%}
{%- else -%}
  {%- set system = default_system -%}
  {%- set turns = messages -%}
{%- endif -%}
{{- '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' -}}
{%- for message in turns -%}
  {%- if message.role == 'user' -%}{{- bos_token + '[INST] ' + message.content + ' [/INST]' -}}
  {%- else -%}{{- ' ' + message.content + ' ' + eos_token -}}{%- endif -%}
{%- endfor -%}
`

/** System text of the model's README. */
const DEFAULT_SYSTEM = 'You are a helpful, respectful and honest assistant.'

/**
 * Turns a conversation into a prompt, with the checkpoint's own Jinja template or the documented one.
 * @throws OpenMoeError ERR_OPENMOE_INVALID_ARG for a conversation that does not end with the user
 */
export function renderChat(messages: readonly ChatMessage[], template?: string): string {
  checkMessages(messages)
  try {
    return new Template(template ?? OPENMOE_TEMPLATE).render({
      messages,
      bos_token: '<s>',
      eos_token: '</s>',
      default_system: DEFAULT_SYSTEM,
      add_generation_prompt: true,
    })
  } catch (cause) {
    throw new OpenMoeError(
      'ERR_OPENMOE_INVALID_ARG',
      `The chat template refused the conversation: ${(cause as Error).message}`,
      { cause },
    )
  }
}

function checkMessages(given: unknown): void {
  const roles = ['system', 'user', 'assistant']
  if (!Array.isArray(given)) {
    throw new OpenMoeError('ERR_OPENMOE_INVALID_ARG', 'messages must be a list of { role, content }.')
  }
  const messages = given as readonly (ChatMessage | undefined)[]
  messages.forEach((message, i) => {
    const { role, content }: Partial<ChatMessage> = message ?? {}
    if (!roles.includes(role as string) || typeof content !== 'string' || (role === 'system' && i > 0)) {
      throw new OpenMoeError(
        'ERR_OPENMOE_INVALID_ARG',
        `messages[${i}] must be { role: 'user' | 'assistant', content: string }; a 'system' message comes first.`,
      )
    }
  })
  if (messages.at(-1)?.role !== 'user') {
    throw new OpenMoeError('ERR_OPENMOE_INVALID_ARG', 'chat: the last message must be from the user.')
  }
}
