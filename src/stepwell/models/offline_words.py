"""What the embedded offline model knows of words: concepts, places, currencies and arithmetic, in English and Chinese.

It is data and small pure functions of text. It knows no tools and chooses nothing; `offline.py` does.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping

_CONCEPTS: Mapping[str, str] = {
    "calculate": "calculate,calculator,calculation,compute,arithmetic,math,maths,expression,evaluate,sum,product,"
    "计算,算,算术,数学,运算,表达式,等于,求值",
    "time": "time,clock,date,what day,which day,weekday,timezone,时间,日期,几点,几时,几号,什么时候,星期几,周几,时区",
    "today": "today,tomorrow,now,current,currently,今天,明天,现在,目前,当前,此刻",
    "weather": "weather,temperature,forecast,rain,raining,sunny,snow,天气,气温,温度,下雨,预报",
    "search": "search,find,lookup,look up,google,搜索,搜,查找,查询,检索,查",
    "internet": "internet,web,online,互联网,网上,网络,上网",
    "video": "video,youtube,视频",
    "paper": "paper,arxiv,article,论文,文献",
    "knowledge": "knowledge,knowledgebase,知识库,知识",
    "file": "file,document,文件,文档",
    "folder": "folder,directory,dir,workspace,here,目录,文件夹",
    "list": "list,ls,enumerate,which files,what files,列出,列表,列举,有哪些",
    "read": "read,open,show,display,view,what's in,what is in,contents of,读取,读,打开,查看,显示,看看,的内容,里有什么",
    "write": "write,save,store,create,写入,写到,写,保存,存入,创建,新建",
    "edit": "edit,change,replace,modify,修改,编辑,替换",
    "delete": "delete,remove,erase,删除,移除,清空",
    "move": "move,rename,移动,重命名",
    "run": "run,execute,shell,terminal,bash,command,运行,执行,命令,命令行,终端",
    "email": "email,e-mail,mail,邮件,邮箱,电邮,发邮件",
    "send": "send,post,deliver,发送,发给,发邮件,发一封",
    "message": "message,sms,消息,短信",
    "currency": "currency,exchange,dollar,euro,yen,usd,eur,cny,rmb,jpy,gbp,"
    "汇率,货币,外汇,兑换,美元,欧元,日元,人民币,英镑",
    "convert": "convert,conversion,转换,换算,换成,兑换,兑",
    "translate": "translate,translation,翻译,译成",
    "stock": "stock,股票,股价",
    "price": "price,cost,价格,价钱,多少钱",
    "news": "news,headline,新闻,头条",
    "city": "city,town,location,place,城市,地点,位置",
    "order": "order,订单",
    "user": "user,customer,用户,客户",
    "remind": "remind,reminder,提醒",
    "calendar": "calendar,meeting,appointment,schedule,日程,会议,日历",
    "image": "image,picture,photo,图片,照片",
    "summary": "summary,summarize,summarise,总结,摘要",
    "database": "database,sql,table,数据库",
    "random": "random,dice,随机,骰子",
    "cancel": "cancel,取消,撤销",
    "set": "set,switch,turn on,turn off,设置,关闭",
    "count": "count,统计,数一下",
    "play": "play,music,song,播放,音乐,歌曲",
    "light": "light,lamp,灯",
    "book": "book,reserve,reservation,预订,预定",
    "flight": "flight,航班,机票",
    "buy": "buy,purchase,pay,payment,购买,支付,付款",
    "wiki": "wiki,wikipedia,encyclopedia,维基,百科",
}
WEAK = frozenset({"file", "today", "city", "message", "user"})
"""Concepts that say what a question is about, but never by themselves what to do."""
ACTS = frozenset(
    "write edit delete move run send buy book update set add upload install kill stop start transfer publish deploy "
    "drop reset cancel".split()
)
"""Words in a tool's name that say it changes something."""

_STOP = frozenset(
    "a an the of to in on at for from by with and or is are was were be do does did can could would will should i "
    "me my you your we us it its this that these those there what what's which who whom when where why how please "
    "tell give get use using tool tools want need let know much many about into as if then than so not no yes "
    "also just any all some like have has had hello hi hey thanks thank ok query question questions answer useful "
    "text string value result return returns times plus minus divided multiplied over percent squared cubed "
    "square root power sqrt sin cos tan log ln pi exp zero one two three four five six seven eight nine ten "
    "eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty 请问 请 帮我 帮忙 给我 "
    "告诉我 一下 什么 怎么样 怎样 怎么 如何 多少 是 的 了 吗 呢 吧 把 在 和 与 我 你 您 想 要 能 可以 用 这个 "
    "那个 哪里 哪个 个 有 到 里 从 工具 加上 加 减去 减 乘以 乘 除以 除 百分之 平方 根号".split()
)

_ZONES: Mapping[str, str] = {
    "Asia/Tokyo": "tokyo,osaka,kyoto,japan,东京,大阪,京都,日本",
    "Asia/Shanghai": "beijing,shanghai,shenzhen,guangzhou,hangzhou,chengdu,wuhan,china,北京,上海,深圳,广州,杭州,成都,"
    "武汉,南京,西安,重庆,天津,苏州,中国",
    "Asia/Hong_Kong": "hong kong,香港",
    "Asia/Taipei": "taipei,taiwan,台北,台湾",
    "Asia/Singapore": "singapore,新加坡",
    "Asia/Seoul": "seoul,korea,首尔,韩国",
    "Asia/Kolkata": "delhi,new delhi,mumbai,bangalore,kolkata,india,新德里,孟买,印度",
    "Asia/Dubai": "dubai,迪拜",
    "Asia/Bangkok": "bangkok,thailand,曼谷,泰国",
    "Asia/Jakarta": "jakarta,雅加达",
    "Asia/Manila": "manila,马尼拉",
    "Asia/Ho_Chi_Minh": "hanoi,saigon,vietnam,河内,越南",
    "Europe/Istanbul": "istanbul,turkey,伊斯坦布尔",
    "Europe/Moscow": "moscow,莫斯科",
    "Europe/London": "london,edinburgh,england,伦敦,英国",
    "Europe/Dublin": "dublin,ireland,都柏林",
    "Europe/Lisbon": "lisbon,portugal,里斯本",
    "Europe/Paris": "paris,lyon,france,巴黎,法国",
    "Europe/Berlin": "berlin,munich,hamburg,frankfurt,germany,柏林,慕尼黑,法兰克福,德国",
    "Europe/Madrid": "madrid,barcelona,spain,马德里,巴塞罗那,西班牙",
    "Europe/Rome": "rome,milan,italy,罗马,米兰,意大利",
    "Europe/Amsterdam": "amsterdam,阿姆斯特丹",
    "Europe/Brussels": "brussels,布鲁塞尔",
    "Europe/Zurich": "zurich,geneva,switzerland,苏黎世,日内瓦,瑞士",
    "Europe/Vienna": "vienna,维也纳",
    "Europe/Stockholm": "stockholm,sweden,斯德哥尔摩",
    "Europe/Oslo": "oslo,norway,奥斯陆",
    "Europe/Copenhagen": "copenhagen,哥本哈根",
    "Europe/Helsinki": "helsinki,赫尔辛基",
    "Europe/Warsaw": "warsaw,华沙",
    "Europe/Prague": "prague,布拉格",
    "Europe/Athens": "athens,雅典",
    "Europe/Kyiv": "kyiv,kiev,基辅",
    "Africa/Cairo": "cairo,开罗",
    "Africa/Lagos": "lagos,拉各斯",
    "Africa/Nairobi": "nairobi,内罗毕",
    "Africa/Johannesburg": "johannesburg,cape town,约翰内斯堡,开普敦",
    "America/New_York": "new york,nyc,boston,washington,miami,纽约,波士顿,华盛顿,迈阿密",
    "America/Chicago": "chicago,houston,dallas,芝加哥,休斯敦",
    "America/Denver": "denver,丹佛",
    "America/Los_Angeles": "los angeles,san francisco,seattle,california,洛杉矶,旧金山,西雅图,加州",
    "America/Toronto": "toronto,montreal,多伦多",
    "America/Vancouver": "vancouver,温哥华",
    "America/Mexico_City": "mexico city,墨西哥城",
    "America/Sao_Paulo": "sao paulo,são paulo,圣保罗",
    "America/Argentina/Buenos_Aires": "buenos aires,布宜诺斯艾利斯",
    "Australia/Sydney": "sydney,悉尼",
    "Australia/Melbourne": "melbourne,墨尔本",
    "Pacific/Auckland": "auckland,new zealand,奥克兰,新西兰",
    "Pacific/Honolulu": "honolulu,hawaii,夏威夷,檀香山",
    "UTC": "utc,gmt,协调世界时,世界时",
}
_CURRENCIES: Mapping[str, str] = {
    "USD": "usd,us dollars,us dollar,dollars,dollar,bucks,$,美元,美金",
    "EUR": "eur,euros,euro,€,欧元",
    "CNY": "cny,rmb,yuan,renminbi,人民币,元",
    "JPY": "jpy,yen,日元,日圆",
    "GBP": "gbp,pounds,pound,£,英镑",
    "HKD": "hkd,港币,港元",
    "TWD": "twd,台币",
    "KRW": "krw,韩元,韩币",
    "AUD": "aud,澳元",
    "CAD": "cad,加元",
    "CHF": "chf,francs,franc,瑞士法郎,法郎",
    "INR": "inr,rupees,rupee,卢比",
    "SGD": "sgd,新加坡元,新币",
    "RUB": "rub,rubles,ruble,卢布",
}

_N = r"(?<![\d.])(\d++(?:\.\d++)?+)"
_ARITHMETIC = (
    (r"\s+", " "),
    (r"(?<![\w.(,])(\d{1,3}),(\d{3})(?![\d,])", r"\1\2"),
    (rf"sum of {_N} and {_N}", r"\1 + \2"),
    (rf"product of {_N} and {_N}", r"\1 * \2"),
    (rf"(?:the )?square root of {_N}|根号{_N}|{_N}的(?:算术)?平方根", r"sqrt(\1\2\3)"),
    (rf"{_N}\s*(?:%|percent)\s*of\s+", r"\1/100*"),
    (rf"{_N}的百分之{_N}|{_N}的{_N}%", r"\1\3*\2\4/100"),
    (rf"百分之{_N}的\s*(?=\d)", r"\1/100*"),
    (rf"百分之{_N}|{_N}%(?!\s*[\d(])", r"\1\2/100"),
    (rf"的?{_N}次方|\s+to the power of\s+{_N}", r"**\1\2"),
    (r"\s+squared\b|的?平方", "**2"),
    (r"\s+cubed\b|的?立方", "**3"),
    (r"\bplus\b|加上|加", "+"),
    (r"\bminus\b|减去|减|[−–]", "-"),
    (r"\btimes\b|\bmultiplied by\b|乘以|乘上|乘|×|(?<=\d)\s*(?<!\b0)x\s*(?=\d)", "*"),
    (r"\bdivided by\b|\bover\b|除以|÷", "/"),
    (r"\bmod(?:ulo)?\b", "%"),
    ("π", "pi"),
)
_ENGLISH_NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
).split()
_FUNCTIONS = (
    "sqrt|sin|cos|tan|asin|acos|atan|degrees|radians|log10|log2|log|ln|exp|abs|round|floor|ceil|factorial|gcd|lcm|comb|"
    "perm|hypot|pow|mod|min|max"
)
_CHINESE_NUMBER = re.compile("(?:[零一二两三四五六七八九十千]|百(?!分之)){1,9}")
_TOKEN = re.compile(
    rf"\s*(?:(?P<number>(?<![a-z_\d.])(?<!\d:)(?:\d++(?:\.\d++)?+|\.\d++)(?:e[+-]?\d++)?+(?![a-z_\d.]*[a-z_\d]|:\d)|\b(?:pi|e|tau)\b)"
    rf"|(?P<function>\b(?:{_FUNCTIONS})\s*\()|(?P<sign>[+-])|(?P<operator>\*\*|//|[*/^%])|(?P<open>\()|(?P<close>\))"
    rf"|(?P<comma>,))",
    re.ASCII,
)
_MORE = re.compile(r"^\s*(?:[+*/^%(]|-\s*\w)|[-+*/^%]\s*[\d(]|\d\s*[+*/^%]")
_START = re.compile(r"(?<![^\s\u4e00-\u9fff])[+-](?=[\d.(a-z])|[\d.(a-z]")
_MAX_TOKENS = 100


def _invert(table: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for key, words in table.items():
        for word in words.split(","):
            found[word] = (*found.get(word, ()), key)
    return found


def _any_of(words: Iterable[str]) -> re.Pattern[str]:
    def bounded(word: str) -> str:
        text = re.escape(word)
        return rf"(?<![a-z]){text}(?![a-z])" if word[0].isascii() and word[0].isalpha() else text

    return re.compile("|".join(bounded(word) for word in sorted(words, key=len, reverse=True)), re.I | re.A)


def stem(word: str) -> str:
    """Return an English word without its common endings; the same for all forms of most words."""
    word = word.removesuffix("'s")
    if word == "news":
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    for ending in ("ing", "ed", "es", "s", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            return word[: -len(ending)]
    return word


_BY_WORD = _invert(_CONCEPTS)
_BY_STEM = {stem(word): concepts for word, concepts in _BY_WORD.items() if re.fullmatch("[a-z]+", word)}
_PHRASE = _any_of(word for word in _BY_WORD if not re.fullmatch("[a-z]+", word))
_STOP_PHRASE = _any_of(word for word in _STOP if not word.isascii())
_GAP = r"[\s,.;:?!，。；：？！、]+"
_PIECE = re.compile(
    rf"(?!\.\w){_GAP}|{_PHRASE.pattern}|{_STOP_PHRASE.pattern}|[a-z][a-z'\u2019]*(?![\w./@*-])|[\u4e00-\u9fff]{{2}}",
    re.I | re.A,
)
_LAST_PIECE = re.compile(
    rf"(?:{_GAP}|(?<![\w./@*-])[a-z][a-z'\u2019]*|是什么|什么|多少|怎么样|吗|呢|吧|一下|的|是)$", re.I | re.A
)
_PLACE_ZONE = {word: zones[0] for word, zones in _invert(_ZONES).items()}
_PLACE = _any_of(_PLACE_ZONE)
_CURRENCY_CODE = {word: codes[0] for word, codes in _invert(_CURRENCIES).items()}
_CURRENCY = _any_of(_CURRENCY_CODE)


def terms(text: str) -> list[str]:
    """Return the concepts, stems and Chinese bigrams of a text, phrases first, without words that say nothing."""
    found: list[str] = []
    for match in _PHRASE.finditer(text := text.lower().replace("\u2019", "'")):
        found += _BY_WORD[match[0]]
    rest = _CHINESE_NUMBER.sub(" ", _STOP_PHRASE.sub(" ", _PHRASE.sub(" ", text)))
    for word in re.findall(r"[a-z][a-z']+|[\u4e00-\u9fff]{2,}", rest):
        if not word[0].isascii():
            found += [word[i : i + 2] for i in range(len(word) - 1)]
        elif _STOP.isdisjoint((word, stem(word))):
            found += _BY_STEM.get(stem(word), (stem(word),))
    return found


def is_concept(term: str) -> bool:
    """Whether the term is of the vocabulary above, not a word of the text itself."""
    return term in _CONCEPTS


def trim(text: str, before: Iterable[str] = (), after: Iterable[str] = ()) -> str:
    """Return the text without words that say nothing at its ends, nor words of the terms `before` and `after` there."""
    known, end = frozenset(before), frozenset(after)
    while (piece := _PIECE.match(text)) and known.issuperset(terms(piece[0])):
        text = text[piece.end() :]
    while (piece := _LAST_PIECE.search(text, max(0, len(text) - 40))) and end.issuperset(terms(piece[0])):
        text = text[: piece.start()]
    return text


def is_chinese(text: str) -> bool | None:
    """Whether a text reads as Chinese rather than English; None when it has no word of either."""
    chinese, latin = len(re.findall(r"[\u4e00-\u9fff]", text)), len(re.findall(r"[A-Za-z]{2,}", text))
    return chinese >= latin if chinese or latin else None


def places(text: str) -> list[tuple[str, str]]:
    """Return the known places of a text as they are written, each with its IANA time zone."""
    named = [(match[0], _PLACE_ZONE[match[0].lower()]) for match in _PLACE.finditer(text)]
    return [(zone, zone) for zone in re.findall(r"\b[A-Z][a-z]+/[A-Z]\w+(?:/[A-Z]\w+)?", text)] or named


def currencies(text: str) -> list[tuple[str, int, int]]:
    """Return the currencies of a text as ISO 4217 codes, each with where it starts and ends."""
    return [(_CURRENCY_CODE[match[0].lower()], *match.span()) for match in _CURRENCY.finditer(text)]


def chinese_number(text: str) -> int:
    """Return the value of a number below 10,000 in Chinese characters.

    >>> chinese_number("三百二十一")
    321
    """
    total = digit = 0
    for char in text.replace("两", "二"):
        unit = {"十": 10, "百": 100, "千": 1000}.get(char)
        if unit:
            total, digit = total + (digit or 1) * unit, 0
        else:
            digit = digit * 10 + "零一二三四五六七八九".index(char)
    return total + digit


def expression(text: str) -> str:
    """Return the arithmetic expression of a text, operators in words made signs.

    Empty when there is none, and when it goes on in a way that is not understood: half a sum has another value.
    """
    text = unicodedata.normalize("NFKC", text).lower()
    text = _CHINESE_NUMBER.sub(lambda match: str(chinese_number(match[0])), text)
    text = re.sub(r"\b[a-z]+\b", lambda match: _digits(match[0]), text)
    for pattern, replacement in _ARITHMETIC:
        text = re.sub(pattern, replacement, text)
    start = 0
    while match := _START.search(text, start):
        end = _end_of_expression(text, match.start())
        if end:
            # `3*4 apples + x` and an unclosed bracket have more to them than the part that was read.
            cut = re.search(r"[-+*/^%(]\s*$", text[: match.start()]) or _MORE.search(text[end:])
            return "" if cut else text[match.start() : end].strip()
        start = match.start() + 1
    return ""


def _digits(word: str) -> str:
    return str(_ENGLISH_NUMBERS.index(word)) if word in _ENGLISH_NUMBERS else word


def _end_of_expression(text: str, start: int) -> int:
    """Return where the longest expression that starts here ends; 0 when there is none with an operation."""
    at, depth, operand, operations, end = start, 0, True, 0, 0
    for _ in range(_MAX_TOKENS):
        token = _TOKEN.match(text, at)
        kind = token.lastgroup if token else None
        if token is None or operand != (kind in ("number", "function", "open") or (kind == "sign" and operand)):
            break
        depth += {"function": 1, "open": 1, "close": -1}.get(kind or "", 0)
        if depth < 0 or (kind == "comma" and not depth):
            break
        operations += kind in ("operator", "function") or (kind == "sign" and not operand)
        operand = kind not in ("number", "close")
        at = token.end()
        if not operand and not depth and operations:
            end = at
    return end
