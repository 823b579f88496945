"""The text on which `doppler convert --quant` measures what was lost, if it is given no other.

A page of what models are asked to continue: a story, an explanation, a talk, a list, code, and a
few sentences in other languages. With most tokenizers it has more than 400 tokens.
"""

TEXT = """\
The ferry left the island an hour before sunrise, and only three passengers stood on its deck. \
Marta held a wooden box under her coat, the way one carries a cat to the doctor. Inside lay the \
clock of her grandfather, which had not moved since the winter of the great storm. "They say there \
is a man in the old harbour who can mend anything," she told the boy beside her. He shrugged and \
looked at the water. "Then why does nobody ever come back from him with something that works?"

A lens bends light because light travels more slowly in glass than in air. The thicker the glass, \
the later the wave arrives, so a surface that is thick in the middle delays the centre of a wave \
and folds its edges forward until they meet in one point. The distance from the lens to that point \
is called the focal length. If you double the curvature of both sides, the focal length is halved.

Q: How long should I boil an egg?
A: It depends on how you like it. For a soft yolk, take the egg out after six minutes; for a hard \
one, wait for ten. Put it into cold water afterwards, or it will go on cooking.

Shopping list:
1. two litres of milk
2. a loaf of dark bread
3. 250 g of butter
4. tomatoes, onions, garlic

def mean(values):
    \"\"\"The average of a list of numbers, or None if it is empty.\"\"\"
    if not values:
        return None
    return sum(values) / len(values)

Der Zug nach Hamburg hat heute leider zwanzig Minuten Verspätung. Nous avons attendu sur le quai \
en regardant la pluie tomber. Mañana por la mañana iremos al mercado para comprar pescado fresco.
"""
