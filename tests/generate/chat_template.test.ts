import { describe, expect, it } from 'vitest'
import { type ChatMessage, renderChat } from '../../lib/generate/chat_template.ts'
import { expectError } from '../support/expect_error.ts'
import { tinyModel } from '../support/tiny_model.ts'

const SYSTEM = 'You are a helpful, respectful and honest assistant.'
const user = (content: string): ChatMessage => ({ role: 'user', content })
const assistant = (content: string): ChatMessage => ({ role: 'assistant', content })

describe('the chat prompt of the released model (spec section 7)', () => {
  it('has the documented system text before <s>', () => {
    expect(renderChat([user('Hello')])).toBe(`<<SYS>>\n${SYSTEM}\n<</SYS>>\n\n<s>[INST] Hello [/INST]`)
  })

  it('takes another system text', () => {
    expect(renderChat([{ role: 'system', content: 'Be brief.' }, user('Hello')])).toBe(
      '<<SYS>>\nBe brief.\n<</SYS>>\n\n<s>[INST] Hello [/INST]',
    )
  })

  it('keeps an empty system text empty', () => {
    expect(renderChat([{ role: 'system', content: '' }, user('x')])).toBe(
      '<<SYS>>\n\n<</SYS>>\n\n<s>[INST] x [/INST]',
    )
  })

  it('ends every finished turn with </s>, a space before and after the answer', () => {
    expect(renderChat([user('One?'), assistant('Two.'), user('Three?'), assistant('4'), user('5?')])).toBe(
      `<<SYS>>\n${SYSTEM}\n<</SYS>>\n\n<s>[INST] One? [/INST] Two. </s><s>[INST] Three? [/INST] 4 </s><s>[INST] 5? [/INST]`,
    )
  })

  it('takes the text as it is: blanks, line ends, braces, no escaping', () => {
    const odd = '  {{ 7 * 7 }} <b>&amp;</b>\n\n{% if x %} "\'\\n '
    expect(renderChat([user(odd)])).toContain(`<s>[INST] ${odd} [/INST]`)
  })

  it("uses the checkpoint's own template instead, when there is one", () => {
    const template =
      "{% for m in messages %}[{{ m['role'] }}: {{ m['content'] }}]{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    expect(renderChat([user('a'), assistant('b'), user('c')], template)).toBe(
      '[user: a][assistant: b][user: c]>',
    )
  })
})

describe('a wrong conversation', () => {
  const refuse = (messages: unknown, message: RegExp) =>
    expectError(() => renderChat(messages as ChatMessage[]), 'ERR_OPENMOE_INVALID_ARG', message)

  it.each([
    ['a role nobody has', [{ role: 'tool', content: 'x' }], /messages\[0\]/],
    ['no content', [{ role: 'user' }], /messages\[0\]/],
    ['a list as content', [{ role: 'user', content: ['x'] }], /messages\[0\]/],
    ['a late system text', [user('a'), { role: 'system', content: 'b' }, user('c')], /messages\[1\]/],
    ['null', [null], /messages\[0\]/],
    ['the last word to the assistant', [user('a'), assistant('b')], /last message must be from the user/],
    ['only a system text', [{ role: 'system', content: 'b' }], /last message must be from the user/],
    ['nothing', [], /last message must be from the user/],
  ])('with %s is refused', async (_, messages, message) => void (await refuse(messages, message)))

  it.each([['text'], [undefined], [null], [{ length: 1 }]])(
    'that is no list (%s) is refused',
    async (messages) => void (await refuse(messages, /messages|last message/)),
  )

  it('says what a template did not like', async () => {
    const template = "{{ raise_exception('roles must alternate') }}"
    await expectError(
      () => renderChat([user('a')], template),
      'ERR_OPENMOE_INVALID_ARG',
      /roles must alternate/,
    )
  })
})

describe('model.chat', () => {
  const model = tinyModel()

  it('reads </s> in the template as the end token and continues the prompt it makes', async () => {
    const messages = [user('One?'), assistant('Two.'), user('Three?')]
    const ids = model().tokenizer.encode(renderChat(messages), { parseSpecial: true })
    expect([...ids].filter((id) => id === model().tokenizer.eosId)).toHaveLength(1)
    const options = { maxTokens: 5, ignoreEos: true }
    const { tokens, usage } = await model().chat(messages, options)
    expect(usage.promptTokens).toBe(ids.length)
    expect(tokens).toEqual((await model().generate(ids, options)).tokens)
  })

  it('rejects, not throws, for a wrong conversation', async () => {
    const answer = model().chat([])
    await expectError(answer, 'ERR_OPENMOE_INVALID_ARG', /last message/)
  })
})
